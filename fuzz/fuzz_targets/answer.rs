//! What a program answers to a batch of volumes.

#![no_main]

use candle_core::{DType, Device, Tensor};
use libfuzzer_sys::fuzz_target;
use steer3d_eval::{AnswerKind, AnswerSpec, Predictor, SubprocessPredictor};

fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("steer3d-fuzz-{}-answer", std::process::id()));
    std::fs::write(&path, bytes).expect("a writable folder for temporary files");
    let spec = AnswerSpec {
        dataset: "a".into(),
        kind: AnswerKind::Classes,
        names: vec!["a".into(), "b".into()],
        channels: 1,
        dims: [2; 3],
    };
    let command = format!("exec cat '{}'", path.display());
    let program = SubprocessPredictor::start(&command, spec).expect("a shell");
    let batch = Tensor::zeros((1, 1, 2, 2, 2), DType::F32, &Device::Cpu).expect("a small tensor");
    let _ = program.logits(&batch);
});
