//! Compiled kernels, in memory and on disk: compiling takes about a second each.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::{Error, Result};

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
        let file = folder.map(|folder| folder.join(name));
        let text = if let Some(text) = file.as_ref().and_then(|f| fs::read_to_string(f).ok()) {
            text
        } else {
            let text = compile()?;
            if let Some(file) = &file {
                keep(file, &text);
            }
            text
        };
        let text: Arc<str> = text.into();
        known.insert(name.into(), text.clone());
        Ok(text)
    }
}

/// Writes a file under a temporary name and renames it; does nothing where that fails.
fn keep(file: &Path, text: &str) {
    let write = || -> std::io::Result<()> {
        let folder = file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let temporary = file.with_extension(format!("{}.part", std::process::id()));
        let mut part = fs::File::create(&temporary)?;
        part.write_all(text.as_bytes())?;
        part.sync_all()?;
        fs::rename(&temporary, file)
    };
    let _ = write();
}

/// Where compiled kernels are kept: `steer3d/kernels` of the user's folder for caches.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
pub(crate) fn folder() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
    Some(base.join("steer3d/kernels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_compiled_once_for_a_folder() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("a/b");
        let never = || Err(Error::msg("compiled again"));
        let cache = Cache::default();
        let fresh = || Ok("text".to_string());
        assert_eq!(&*cache.get(Some(&folder), "k", fresh).unwrap(), "text");
        assert_eq!(&*cache.get(Some(&folder), "k", never).unwrap(), "text");
        // Another process.
        assert_eq!(&*Cache::default().get(Some(&folder), "k", never).unwrap(), "text");
        assert!(Cache::default().get(Some(&folder), "other", never).is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_made_does_no_harm() {
        let temporary = tempfile::tempdir().unwrap();
        let file = temporary.path().join("file");
        fs::write(&file, "").unwrap();
        let folder = file.join("kernels");
        let text = Cache::default().get(Some(&folder), "k", || Ok("text".into())).unwrap();
        assert_eq!(&*text, "text");
    }
}
