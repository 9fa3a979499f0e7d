//! Compiled kernels, in memory and on disk: compiling takes about a second each. A file begins with its checksum; what
//! does not fit it is compiled anew.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::{env, fs, io};

use candle_core::{Error, Result};
use sha2::{Digest, Sha256};

/// Compiled texts by name.
#[derive(Default)]
pub(crate) struct Cache(Mutex<HashMap<String, Arc<str>>>);

impl Cache {
    /// What `compile` gives for `name`, asked once for each process and, with a `folder`, once for
    /// each folder. A folder that cannot be used does no harm.
    pub(crate) fn get(
        &self,
        folder: Option<&Path>,
        name: &str,
        compile: impl FnOnce() -> Result<String>,
    ) -> Result<Arc<str>> {
        let poisoned = |_| Error::msg("a thread failed while it compiled a kernel");
        let mut known = self.0.lock().map_err(poisoned)?;
        if let Some(text) = known.get(name) {
            return Ok(text.clone());
        }
        let kept = folder.and_then(|folder| read(&folder.join(name)));
        let text = if let Some(text) = kept {
            text
        } else {
            let text = compile()?;
            // Without the file the next process compiles again.
            let _ = folder.map_or(Ok(()), |folder| write(&folder.join(name), &text));
            text
        };
        let text: Arc<str> = text.into();
        known.insert(name.into(), text.clone());
        Ok(text)
    }
}

/// The text of a file, if it is whole and of this name.
fn read(file: &Path) -> Option<String> {
    let content = fs::read_to_string(file).ok()?;
    let (sum, text) = content.split_once('\n')?;
    (sum == checksum(file, text)).then(|| text.into())
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    steer3d_files::write(file, format!("{}\n{text}", checksum(file, text)).as_bytes())
}

/// What the first line of a file says: the SHA-256 of its name and text, as a comment.
fn checksum(file: &Path, text: &str) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    format!("// SHA-256 {}", steer3d_files::hex(&Sha256::digest(format!("{name}\n{text}"))))
}

/// Where compiled kernels are kept: `steer3d/kernels` of the user's folder for caches, if no other user can write
/// there.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) fn folder() -> Option<PathBuf> {
    let folder = folder_in(["XDG_CACHE_HOME", "HOME"].map(env::var_os))?;
    steer3d_files::private_folder(&folder).ok().map(|()| folder)
}

/// The folder for these values of `XDG_CACHE_HOME` and `HOME`: paths that are not absolute do not count, as the XDG
/// Base Directory Specification says.
fn folder_in(values: [Option<OsString>; 2]) -> Option<PathBuf> {
    let [caches, home] = values.map(|v| v.map(PathBuf::from).filter(|path| path.is_absolute()));
    let base = caches.or_else(|| Some(home?.join(".cache")))?;
    Some(base.join("steer3d/kernels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never() -> Result<String> {
        Err(Error::msg("compiled again"))
    }

    #[test]
    fn a_kernel_is_compiled_once_for_a_folder() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        let cache = Cache::default();
        let fresh = || Ok("text".to_string());
        assert_eq!(&*cache.get(Some(folder), "k", fresh).unwrap(), "text");
        assert_eq!(&*cache.get(Some(folder), "k", never).unwrap(), "text");
        // Another process.
        assert_eq!(&*Cache::default().get(Some(folder), "k", never).unwrap(), "text");
        assert!(Cache::default().get(Some(folder), "other", never).is_err());
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_or_renamed_file_is_compiled_anew() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        let get = |name: &str, text: &str| {
            Cache::default().get(Some(folder), name, || Ok(text.into())).unwrap().to_string()
        };
        let kernel = "first line\nsecond line\n";
        get("k", kernel);
        let whole = fs::read(folder.join("k")).unwrap();
        let mut damaged = vec![vec![], b"another kernel".to_vec(), b"\xff".to_vec()];
        damaged.extend((0..whole.len()).map(|end| whole[..end].to_vec()));
        damaged.extend((0..whole.len()).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        }));
        for bytes in damaged {
            fs::write(folder.join("k"), &bytes).unwrap();
            assert_eq!(get("k", "anew"), "anew", "{}", String::from_utf8_lossy(&bytes));
            assert_eq!(get("k", "never"), "anew");
        }
        fs::copy(folder.join("k"), folder.join("other")).unwrap();
        assert_eq!(get("other", "of its own"), "of its own");
    }

    #[test]
    fn a_folder_that_cannot_be_used_does_no_harm() {
        let temporary = tempfile::tempdir().unwrap();
        let file = temporary.path().join("file");
        fs::write(&file, "").unwrap();
        let folder = file.join("kernels");
        let text = Cache::default().get(Some(&folder), "k", || Ok("text".into())).unwrap();
        assert_eq!(&*text, "text");
    }

    #[test]
    fn only_absolute_paths_lead_to_the_folder() {
        let of = |caches: Option<&str>, home: Option<&str>| {
            folder_in([caches, home].map(|v| v.map(OsString::from)))
        };
        let found = |path: &str| Some(PathBuf::from(path));
        assert_eq!(of(Some("/c"), Some("/home")), found("/c/steer3d/kernels"));
        for caches in [None, Some(""), Some("."), Some("caches")] {
            assert_eq!(of(caches, Some("/home")), found("/home/.cache/steer3d/kernels"));
            assert_eq!(
                [of(caches, None), of(caches, Some("")), of(caches, Some("home"))],
                [None, None, None]
            );
        }
    }
}
