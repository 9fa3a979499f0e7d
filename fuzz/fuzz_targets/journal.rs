//! The journal of an evaluation: the report is the one without a journal, or there is an error. Bytes that begin with
//! a zero stand after the first line that the evaluation itself writes.

#![no_main]

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::OnceLock;

use candle_core::{Device, Tensor};
use libfuzzer_sys::fuzz_target;
use steer3d_dataset::{Dataset, ImportOptions, Split, import_tetris};
use steer3d_eval::{ModelError, ModelReport, Predictor, Protocol, evaluate};
use steer3d_volume::Voxeliser;

struct First;

impl Predictor for First {
    fn name(&self) -> &str {
        "first"
    }

    fn classes(&self) -> usize {
        8
    }

    fn channels(&self) -> usize {
        1
    }

    fn fingerprint(&self) -> Option<String> {
        Some("first".into())
    }

    fn logits(&self, batch: &Tensor) -> Result<Tensor, ModelError> {
        let row = Tensor::new(&[[1f32, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]], &Device::Cpu)?;
        Ok(row.repeat((batch.dim(0)?, 1))?)
    }
}

fn report(dataset: &Dataset, journal: &PathBuf) -> Option<ModelReport> {
    let protocol = Protocol {
        rotations: 1,
        angles: vec![],
        translations: vec![],
        groups: vec![],
        batch: 4,
        resamples: 1,
        ..Protocol::default()
    };
    evaluate(&First, dataset, Split::Test, &protocol, Some(journal), &|_| ControlFlow::Continue(()))
        .ok()
}

fuzz_target!(|bytes: &[u8]| {
    let own = |end: &str| {
        std::env::temp_dir().join(format!("steer3d-fuzz-{}-journal.{end}", std::process::id()))
    };
    let journal = own("rows");
    static MADE: OnceLock<(Dataset, Vec<u8>)> = OnceLock::new();
    let (dataset, identity) = MADE.get_or_init(|| {
        let path = own("h5");
        import_tetris(&path, &Voxeliser::paper(5, 0.8), 1, &ImportOptions::default())
            .expect("a writable folder for temporary files");
        let dataset = Dataset::open(&path).expect("the file just written");
        let _ = fs::remove_file(&journal);
        report(&dataset, &journal).expect("an evaluation");
        let rows = fs::read(&journal).expect("a journal");
        let end = rows.iter().position(|&byte| byte == b'\n').expect("a first line");
        (dataset, rows[..=end].to_vec())
    });
    let file = match bytes.strip_prefix(b"\0") {
        Some(rows) => [identity, rows].concat(),
        None => bytes.to_vec(),
    };
    fs::write(&journal, file).expect("a writable folder for temporary files");
    let _ = report(dataset, &journal);
});
