//! Volumes written out and predictions read back.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use steer3d_dataset::{Dataset, Split};
use steer3d_eval::{
    AnswerKind, AnswerSpec, EvalError, Exporter, Precomputed, Predictor, Protocol, evaluate,
};

use crate::common::{
    CLASSES, Mock, SIZE, dataset, is_dense, labelled, quick, run, shells, threshold, vector,
    with_targets,
};

/// Any function of the volume.
fn answer(volume: &[f32]) -> Vec<f32> {
    shells(volume)[..3].to_vec()
}

fn exported(folder: &Path) -> Dataset {
    let data = dataset(&folder.join("a.h5"), 3, true);
    let exporter = Exporter::new(&folder.join("out"), data.meta()).unwrap();
    evaluate(&exporter, &data, Split::Test, &quick(), None, &|_| ControlFlow::Continue(()))
        .unwrap();
    exporter.finish(&folder.join("out")).unwrap();
    data
}

/// The volumes of the NPY file, after its header.
fn written(folder: &Path) -> Vec<Vec<f32>> {
    let bytes = fs::read(folder.join("out/volumes.npy")).unwrap();
    let (header, values) = bytes.split_at(128);
    let values: Vec<f32> =
        values.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let volumes: Vec<_> = values.chunks(SIZE.pow(3)).map(<[f32]>::to_vec).collect();
    let shape = format!("({}, 1, 13, 13, 13)", volumes.len());
    assert!(header.starts_with(b"\x93NUMPY\x01\x00\x76\x00") && header.ends_with(b"\n"));
    assert!(String::from_utf8_lossy(header).contains(&shape));
    volumes
}

fn line(values: [f32; 3]) -> String {
    format!("{},{},{}\n", values[0], values[1], values[2])
}

#[test]
fn precomputed_predictions_give_the_report_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let data = exported(folder.path());
    let mut text = format!("{},{},{}\n", CLASSES[2], CLASSES[0], CLASSES[1]);
    for volume in written(folder.path()) {
        let logits = answer(&volume);
        text += &line([logits[2], logits[0], logits[1]]);
    }
    fs::write(folder.path().join("out/predictions.csv"), text).unwrap();
    let read =
        Precomputed::load("a".into(), &folder.path().join("out"), AnswerSpec::classes(data.meta()))
            .unwrap();
    let protocol = Protocol { batch: 5, ..quick() };
    let found =
        evaluate(&read, &data, Split::Test, &protocol, None, &|_| ControlFlow::Continue(()))
            .unwrap();
    let expected = evaluate(&Mock::new("a", answer), &data, Split::Test, &quick(), None, &|_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(found.predictions, expected.predictions);

    let other = Protocol { seed: 99, ..quick() };
    let EvalError::Forward { source, .. } =
        evaluate(&read, &data, Split::Test, &other, None, &|_| ControlFlow::Continue(()))
            .unwrap_err()
    else {
        panic!("another error")
    };
    assert!(source.to_string().contains("not written out before"), "{source}");
}

#[test]
fn wrong_predictions_name_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let data = exported(folder.path());
    let out = folder.path().join("out");
    let message = || {
        Precomputed::load("a".into(), &out, AnswerSpec::classes(data.meta()))
            .unwrap_err()
            .to_string()
    };
    assert!(message().contains("predictions.csv"), "{}", message());
    let names = CLASSES.join(",") + "\n";
    let rows = line([1.0, 2.0, 3.0]).repeat(written(folder.path()).len());
    let write = |text: &str| fs::write(out.join("predictions.csv"), text).unwrap();
    write(&rows);
    assert!(message().contains("line 1 must name the classes"), "{}", message());
    write(&(names.clone() + "1,2,3\n"));
    assert!(message().contains("has 1 lines of logits, but volumes.npy has"), "{}", message());
    write(&(names.clone() + "1,2,x\n" + &rows));
    assert!(message().contains("line 2: expected 3 numbers"), "{}", message());
    write(&(names + &rows));
    assert!(Precomputed::load("a".into(), &out, AnswerSpec::classes(data.meta())).is_ok());
    fs::remove_file(out.join("volumes.sha256")).unwrap();
    assert!(message().contains("--export"), "{}", message());
}

/// An array file of float32.
fn npy(shape: &str, values: &[f32]) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(format!("{header:<117}\n").bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

/// The volumes of a dataset written out, and the answers of a model to them read back.
fn read_back(data: &Dataset, model: &dyn Predictor, folder: &Path) -> Precomputed {
    let out = folder.join("out");
    let exporter = Exporter::new(&out, data.meta()).unwrap();
    run(&exporter, data, &quick());
    exporter.finish(&out).unwrap();
    let spec = AnswerSpec::new(data, model.answers()).unwrap();
    let volumes = written(folder);
    let shape = spec.shape(volumes.len());
    let batch = (volumes.len(), 1, SIZE, SIZE, SIZE);
    let batch =
        candle_core::Tensor::from_vec(volumes.concat(), batch, &candle_core::Device::Cpu).unwrap();
    let answers = model.logits(&batch).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let sizes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let wrong = npy(&format!("({},)", sizes[0]), &answers);
    fs::write(out.join("predictions.npy"), wrong).unwrap();
    let error = Precomputed::load("a".into(), &out, spec.clone()).unwrap_err().to_string();
    assert!(error.contains("predictions.npy") && error.contains(&sizes.join(",")), "{error}");
    let right = npy(&format!("({})", sizes.join(", ")), &answers);
    fs::write(out.join("predictions.npy"), right).unwrap();
    Precomputed::load("a".into(), &out, spec).unwrap()
}

#[test]
fn precomputed_labels_and_vectors_give_the_report_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let data = labelled(&folder.path().join("a.h5"), 2, is_dense);
    let read = read_back(&data, &threshold(), folder.path());
    assert_eq!(read.answers(), AnswerKind::Voxels);
    assert_eq!(run(&read, &data, &quick()).sources, run(&threshold(), &data, &quick()).sources);
    let data = with_targets(&folder.path().join("b.h5"), "1x1", &vec![vec![1.0, 2.0, 3.0]; 2]);
    let read = read_back(&data, &vector(), folder.path());
    assert_eq!(run(&read, &data, &quick()).sources, run(&vector(), &data, &quick()).sources);
}
