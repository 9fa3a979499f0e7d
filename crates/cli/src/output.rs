//! Results on standard output, progress on standard error.

use std::fmt;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::builder::styling::{AnsiColor, Style};
use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use serde::Serialize;
use steer3d::experiments::{Observer, PartObserver};
use steer3d::files::{AtPath, FileError};
use steer3d::report::Text;
use terminal_size::{Height, Width, terminal_size_of};

/// Exit code of a command that did what it was asked for.
pub(crate) const SUCCESS: u8 = 0;

/// The colour of what a user should know, on a terminal without `NO_COLOR`.
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default();

/// The colour of what went wrong with a part of the input.
pub(crate) const PROBLEM: Style = AnsiColor::Red.on_default();

/// How the user wants to be told.
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    /// Columns that a text may take on standard output and on standard error: those of the terminal, if it is one.
    widths: [Option<usize>; 2],
    terminal: bool,
    /// Whether another rank tells everything.
    silent: bool,
}

impl Output {
    /// With `wide`, texts are written in full in any terminal.
    pub(crate) fn new(json: bool, quiet: bool, wide: bool) -> Self {
        let sizes = [terminal_size_of(std::io::stdout()), terminal_size_of(std::io::stderr())];
        let width = |(width, _): (Width, Height)| usize::from(width.0);
        let widths = sizes.map(|size| size.filter(|_| !wide).map(width));
        Self { json, quiet, widths, terminal: std::io::stderr().is_terminal(), silent: false }
    }

    /// Nothing is told.
    pub(crate) fn silent() -> Self {
        Self { terminal: false, silent: true, ..Self::new(false, true, false) }
    }

    /// Whether the result shall be JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A line of progress.
    pub(crate) fn say(&self, line: &str) {
        self.show(&Text::default().words(line));
    }

    /// A line about something that the user should know.
    pub(crate) fn warn(&self, line: &str) {
        if !self.quiet {
            let line = fitted(&Text::default().words(line), self.widths[1]);
            anstream::eprintln!("{WARNING}{line}{WARNING:#}");
        }
    }

    /// The result of the command: `text`, or `value` as JSON where asked for. A reader that has seen enough
    /// (`| head`) is no error.
    pub(crate) fn result(&self, text: &str, value: &impl Serialize) -> Result<()> {
        if self.silent {
            return Ok(());
        }
        let text = if self.json { serde_json::to_string_pretty(value)? } else { text.into() };
        match writeln!(std::io::stdout(), "{text}") {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written.context("standard output"),
        }
    }

    /// The same of a text that fits the terminal.
    pub(crate) fn tables(&self, text: &Text, value: &impl Serialize) -> Result<()> {
        self.result(&fitted(text, self.widths[0]), value)
    }

    /// A bar on a terminal; in a pipe a line now and then.
    pub(crate) fn progress(&self, label: &str, length: usize) -> Progress {
        let bar = (self.terminal && !self.quiet).then(|| {
            let style = "{prefix} [{bar:30}] {pos}/{len} {msg} ({rate}, eta {eta})";
            let style = ProgressStyle::with_template(style)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .with_key("rate", |state: &ProgressState, text: &mut dyn fmt::Write| {
                    let _ = text.write_str(&rate(state.per_sec()));
                })
                .progress_chars("=> ");
            let bar = ProgressBar::new(length as u64).with_style(style);
            bar.set_prefix(label.to_owned());
            bar
        });
        Progress {
            label: label.into(),
            length,
            bar,
            lines: !self.terminal && !self.quiet,
            widths: self.widths,
            silent: self.silent,
            last: Instant::now(),
            begun: (Instant::now(), 0),
        }
    }
}

fn fitted(text: &Text, width: Option<usize>) -> String {
    width.map_or_else(|| text.to_string(), |width| text.fitted(width))
}

/// How fast something goes.
fn rate(per_second: f64) -> String {
    if per_second > 0.0 && per_second < 1.0 {
        format!("{:.1} s each", per_second.recip())
    } else {
        format!("{per_second:.1}/s")
    }
}

/// A number of things: 1 item, 2 items.
pub(crate) fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// Makes the folder of a file that is about to be written, if it is missing.
pub(crate) fn make_folder_of(file: &Path) -> Result<(), FileError> {
    match file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => std::fs::create_dir_all(folder).at_path(folder),
        None => Ok(()),
    }
}

impl Observer for Output {
    fn say(&self, line: &str) {
        self.say(line);
    }

    fn show(&self, text: &Text) {
        if !self.quiet {
            eprintln!("{}", fitted(text, self.widths[1]));
        }
    }

    fn begin(&self, label: &str) -> Box<dyn PartObserver + '_> {
        Box::new(self.progress(label, 0))
    }
}

/// The progress of one long task.
pub(crate) struct Progress {
    label: String,
    length: usize,
    bar: Option<ProgressBar>,
    lines: bool,
    /// As those of the output.
    widths: [Option<usize>; 2],
    silent: bool,
    last: Instant,
    /// When it began, and how much was done then.
    begun: (Instant, usize),
}

const LINE_EVERY: Duration = Duration::from_secs(15);

impl Progress {
    /// Corrects the length once it is known.
    pub(crate) fn length(&mut self, length: usize) {
        self.length = length;
        if let Some(bar) = &self.bar {
            bar.set_length(length as u64);
        }
    }

    /// `done` of the whole length are done.
    pub(crate) fn at(&mut self, done: usize, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.set_message(message.to_owned());
        } else if self.lines && self.last.elapsed() > LINE_EVERY {
            self.last = Instant::now();
            let (start, before) = self.begun;
            let left = self.length.saturating_sub(done) as f64;
            let speed = done.saturating_sub(before).max(1) as f64 / start.elapsed().as_secs_f64();
            let eta = HumanDuration(Duration::from_secs_f64((left / speed).min(1e9)));
            let (label, length, rate) = (&self.label, self.length, rate(speed));
            eprintln!("{label}: {done}/{length} {message} ({rate}, eta {eta:#})");
        }
    }
}

impl Progress {
    /// So much was done before.
    pub(crate) fn begin_at(&mut self, done: usize) {
        self.begun = (Instant::now(), done);
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.reset_eta();
        }
    }

    /// Sets the message beside the bar, if there is one.
    pub(crate) fn messages(&self) -> impl Fn(&str) + Sync + use<> {
        let bar = self.bar.clone();
        move |text: &str| {
            if let Some(bar) = &bar {
                bar.set_message(text.to_owned());
            }
        }
    }

    /// A line about a part, on standard error in a colour.
    pub(crate) fn note(&self, line: &Text, colour: Style) {
        if self.silent {
            return;
        }
        let line = fitted(line, self.widths[1]);
        let print = || anstream::eprintln!("{colour}{line}{colour:#}");
        self.bar.as_ref().map_or_else(print, |bar| bar.suspend(print));
    }

    /// A line of the result, on standard output. A reader that has seen enough is no error.
    pub(crate) fn result(&self, line: &Text) -> std::io::Result<()> {
        if self.silent {
            return Ok(());
        }
        let line = fitted(line, self.widths[0]);
        let print = || writeln!(std::io::stdout(), "{line}");
        let printed = self.bar.as_ref().map_or_else(print, |bar| bar.suspend(print));
        printed.or_else(|error| match error.kind() {
            ErrorKind::BrokenPipe => Ok(()),
            _ => Err(error),
        })
    }
}

impl PartObserver for Progress {
    fn start(&mut self, done: usize, total: usize) {
        self.length(total);
        self.begin_at(done);
    }

    fn at(&mut self, done: usize, total: usize, message: &str) {
        self.length(total);
        self.at(done, message);
    }

    fn say(&self, line: &str) {
        let line = fitted(&Text::default().words(line), self.widths[1]);
        match &self.bar {
            Some(bar) => bar.println(line),
            None if self.lines => eprintln!("{line}"),
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
