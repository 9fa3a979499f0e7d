//! Volumes written out and predictions read back.

use std::fs;
use std::path::Path;

use steer3d_dataset::{Dataset, Split};
use steer3d_eval::{EvalError, Exporter, Precomputed, Protocol, evaluate};

use crate::common::{CLASSES, Mock, SIZE, dataset, quick, shells};

/// Any function of the volume.
fn answer(volume: &[f32]) -> Vec<f32> {
    shells(volume)[..3].to_vec()
}

fn exported(folder: &Path) -> Dataset {
    let data = dataset(&folder.join("a.h5"), 3, true);
    let exporter = Exporter::new(&folder.join("out"), data.meta()).unwrap();
    evaluate(&exporter, &data, Split::Test, &quick(), None, &|_| ()).unwrap();
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
    let read = Precomputed::load("a".into(), &folder.path().join("out"), data.meta()).unwrap();
    let protocol = Protocol { batch: 5, ..quick() };
    let found = evaluate(&read, &data, Split::Test, &protocol, None, &|_| ()).unwrap();
    let expected =
        evaluate(&Mock::new("a", answer), &data, Split::Test, &quick(), None, &|_| ()).unwrap();
    assert_eq!(found.predictions, expected.predictions);

    let other = Protocol { seed: 99, ..quick() };
    let EvalError::Model { source, .. } =
        evaluate(&read, &data, Split::Test, &other, None, &|_| ()).unwrap_err()
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
    let message = || Precomputed::load("a".into(), &out, data.meta()).unwrap_err().to_string();
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
    assert!(Precomputed::load("a".into(), &out, data.meta()).is_ok());
    fs::remove_file(out.join("volumes.sha256")).unwrap();
    assert!(message().contains("--export"), "{}", message());
}
