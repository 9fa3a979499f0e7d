//! The page of a report in a real browser.

use std::path::PathBuf;
use std::process::Command;

use steer3d_report::html;

use crate::classes::report;
use crate::{values, voxels};

const BROWSERS: [&str; 4] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// Writes into the page how many of its pictures and plots it shows, and what it fetched.
const COUNT: &str = "<script>
addEventListener('load', () => {
  const figures = [...document.querySelectorAll('img, figure svg')];
  const shown = figures.filter(f => f.tagName == 'IMG'
    ? f.complete && f.naturalWidth > 0
    : f.getBBox().width > 0 && f.getBoundingClientRect().width > 0);
  document.body.dataset.shown = `${shown.length} of ${figures.length}`;
  const fetched = performance.getEntriesByType('resource').map(r => r.name);
  document.body.dataset.fetched = fetched.filter(name => !name.startsWith('data:')).join(' ');
});
</script>";

fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let candidates = folders.iter().flat_map(|folder| BROWSERS.map(|name| folder.join(name)));
    candidates.into_iter().find(|candidate| candidate.is_file())
}

#[test]
fn a_browser_shows_every_figure_and_asks_the_network_for_nothing() {
    // As many as html_refers_to_nothing_outside_and_escapes_names counts.
    check(&html(&report()).unwrap(), 24 + 1);
}

#[test]
fn a_browser_shows_every_figure_of_labels_of_voxels() {
    check(&html(&voxels::report()).unwrap(), 6 + 32);
}

#[test]
fn a_browser_shows_every_figure_of_vectors() {
    check(&html(&values::report()).unwrap(), 2);
}

/// What stands in an attribute `data-NAME` of the body of a page.
pub(crate) fn value(dom: &str, name: &str) -> String {
    let begin = format!(" data-{name}=\"");
    let (_, rest) = dom.split_once(&begin).unwrap_or_else(|| panic!("no data-{name}"));
    rest.split('"').next().unwrap_or_default().replace("&quot;", "\"")
}

/// The page with a script at its end as a browser has it after a while, if there is one.
pub(crate) fn dom(text: &str, script: &str) -> Option<String> {
    let Some(browser) = browser() else {
        eprintln!("SKIPPED: no browser in PATH; scripts/browser installs one");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("report.html");
    std::fs::write(&page, text.replace("</body>", &format!("{script}</body>"))).unwrap();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--disable-background-networking", "--disable-component-update", "--no-first-run"])
        .args(["--disable-sync", "--enable-logging=stderr", "--virtual-time-budget=5000"])
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .arg("--host-resolver-rules=MAP * ~NOTFOUND")
        .arg("--dump-dom")
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let [dom, said] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{said}");
    let console: Vec<&str> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(console.is_empty(), "{console:?}");
    Some(dom)
}

fn check(text: &str, figures: usize) {
    let Some(dom) = dom(text, COUNT) else { return };
    let shown = format!("data-shown=\"{figures} of {figures}\"");
    assert!(dom.contains(&shown), "{}", &dom[dom.len().saturating_sub(900)..]);
    assert!(dom.contains("data-fetched=\"\""), "{}", &dom[dom.len().saturating_sub(900)..]);
}
