//! Checking every item of a dataset.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::Serialize;

use steer3d_files::hex;

use crate::error::DatasetError;
use crate::reader::Dataset;

/// What is wrong with an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// Index of the item.
    pub item: usize,
    /// Its identifier.
    pub id: String,
    /// What is wrong.
    pub problem: String,
}

impl Dataset {
    /// Reads every item and compares it with its checksum; `done` hears how many items are done.
    /// What [`Dataset::open`] checks (description, labels, splits) is not checked again.
    pub fn verify(&self, done: &(dyn Fn(usize) + Sync)) -> Vec<Broken> {
        let batch = self.at_once().min(256);
        let mut broken = self.repeated_ids();
        for start in (0..self.len()).step_by(batch) {
            let end = (start + batch).min(self.len());
            let found = (start..end).into_par_iter().filter_map(|item| {
                let problem = self.check(item).err()?;
                Some(Broken { item, id: self.ids()[item].clone(), problem })
            });
            broken.par_extend(found);
            done(end);
        }
        broken.sort_by_key(|broken| broken.item);
        broken
    }

    fn check(&self, item: usize) -> Result<(), String> {
        let text = |error: DatasetError| error.to_string();
        self.read(item).map_err(text)?;
        let found = self.computed_checksum(item).map_err(text)?;
        match self.checksums() {
            Some(sums) if sums[item] != found => Err(format!(
                "{}: item {item}: expected the SHA-256 {}, found {}",
                self.path().display(),
                hex(&sums[item]),
                hex(&found)
            )),
            _ => Ok(()),
        }
    }

    fn repeated_ids(&self) -> Vec<Broken> {
        let mut first = HashMap::new();
        let mut broken = Vec::new();
        for (item, id) in self.ids().iter().enumerate() {
            let before = *first.entry(id.as_str()).or_insert(item);
            if before != item {
                let path = self.path().display();
                let problem = format!("{path}: item {item}: id `{id}` is that of item {before}");
                broken.push(Broken { item, id: id.clone(), problem });
            }
        }
        broken
    }
}
