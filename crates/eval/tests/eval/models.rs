//! Networks in files, and datasets that are not what they were trained for.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use steer3d_dataset::{Dataset, DatasetMeta, DatasetWriter, Item, Provenance, Split, Tasks};
use steer3d_eval::{Models, Prediction, Predictor};
use steer3d_nn::checkpoint::{self, FORMAT, Meaning, ModelCard, Origin, save};
use steer3d_nn::{ModelConfig, Network};
use steer3d_so3::Stream;
use steer3d_volume::{Grid, Volume};

use crate::common::{quick, run};

const NAMES: [&str; 3] = ["helix", "sheet", "coil"];

/// Six volumes of the classes helix, sheet and coil in turn, whose names are in the order of `meta`.
fn dataset(path: &Path, meta: &DatasetMeta, voxel_classes: &[&str]) -> Dataset {
    let grid = Grid::new([5; 3], meta.voxel_size).unwrap();
    let mut writer = DatasetWriter::create(path, meta.clone()).unwrap();
    if !voxel_classes.is_empty() {
        let voxel_classes = voxel_classes.iter().map(ToString::to_string).collect();
        writer = writer.with_tasks(Tasks { voxel_classes, ..Tasks::default() }).unwrap();
    }
    // Labels of voxels: solvent where a value is below a half.
    let solvent = voxel_classes.iter().position(|name| *name == "solvent").unwrap_or(0) as u8;
    for i in 0..6 {
        let mut stream = Stream::new(0, "models", &[i as u64]);
        let values: Vec<f32> = (0..125).map(|_| stream.uniform() as f32).collect();
        let labels: Vec<u8> =
            values.iter().map(|v| if *v < 0.5 { solvent } else { 1 - solvent }).collect();
        let volume = Volume::centred(values, 1, grid).unwrap();
        let class = meta.class_names.iter().position(|name| name == NAMES[i % 3]).unwrap_or(0);
        let (id, split) = (i.to_string(), Split::Test);
        let voxel_labels = if voxel_classes.is_empty() { &[][..] } else { &labels[..] };
        let item =
            Item { volume: Some(&volume), label: class as u32, split, id: &id, ..Item::default() };
        writer.push(&Item { voxel_labels, ..item }).unwrap();
    }
    writer.finish().unwrap();
    Dataset::open(path).unwrap()
}

fn meta(names: [&str; 3]) -> DatasetMeta {
    let grid = Grid::new([5; 3], [1.5; 3]).unwrap();
    let notes = "channels: C; weight of an atom: 1".into();
    DatasetMeta {
        name: "folds".into(),
        class_names: names.map(String::from).to_vec(),
        unit: "angstrom".into(),
        provenance: Provenance { notes, ..Provenance::default() },
        ..DatasetMeta::scalars(1, &grid).unwrap()
    }
}

/// A network that nobody has trained, and what its file says.
fn network(path: &Path, head: &str, meaning: Meaning) {
    let classes = if head == "voxels" { 2 } else { 3 };
    let config = format!(
        "kind = 'plain'\nchannels = 1\nclasses = {classes}\nhead = '{head}'\nblocks = [{{ channels = 3, size = 3 }}]"
    );
    let config = ModelConfig::from_toml(&config).unwrap();
    let network = Network::new(&config, 1, DType::F32, &Device::Cpu).unwrap();
    let card = ModelCard {
        format: FORMAT,
        version: "0.0.0".into(),
        dataset: "folds".into(),
        seed: 1,
        class_names: NAMES.map(String::from).to_vec(),
        dims: [5; 3],
        voxel_size: [1.5; 3],
        unit: "angstrom".into(),
        meaning,
        origin: Origin::default(),
        model: network.config().clone(),
    };
    save(path, &network, &card).unwrap();
}

fn known() -> Meaning {
    Meaning {
        irreps: Some("1x0".parse().unwrap()),
        channels: Some("channels: C; weight of an atom: 1".into()),
        voxel_classes: vec!["solvent".into(), "protein".into()],
        targets: None,
        ..Meaning::default()
    }
}

fn scores(file: &Path, data: &Dataset, map_classes: bool) -> Result<Vec<f64>, String> {
    let models = Models { files: vec![file.into()], map_classes, ..Models::default() };
    let models = models.open(data, &Device::Cpu, &|_| ()).map_err(|e| e.to_string())?;
    let score = |prediction: &Prediction| prediction.score;
    Ok(run(models[0].as_ref(), data, &quick()).predictions.iter().map(score).collect())
}

/// The logits of the classes of a network for one volume.
fn logits(file: &Path, data: &Dataset, map_classes: bool) -> Vec<Vec<f32>> {
    let models = Models { files: vec![file.into()], map_classes, ..Models::default() };
    let models = models.open(data, &Device::Cpu, &|_| ()).unwrap();
    let batch = Tensor::new(data.read(0).unwrap().data(), &Device::Cpu).unwrap();
    let found = models[0].logits(&batch.reshape((1, 1, 5, 5, 5)).unwrap()).unwrap();
    let classes = found.dim(1).unwrap();
    found.reshape((classes, ())).unwrap().to_vec2().unwrap()
}

#[test]
fn classes_in_another_order_are_an_error_or_taken_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.safetensors");
    let [same, other] = [NAMES, ["coil", "helix", "sheet"]].map(meta);
    let same = dataset(&dir.path().join("a.h5"), &same, &["solvent", "protein"]);
    let other = dataset(&dir.path().join("b.h5"), &other, &["protein", "solvent"]);
    for (head, order) in [("classes", &[2, 0, 1][..]), ("voxels", &[1, 0])] {
        network(&file, head, known());
        let message = scores(&file, &other, false).unwrap_err();
        assert!(message.contains("--map-classes"), "{message}");
        let (plain, mapped) = (logits(&file, &same, false), logits(&file, &other, true));
        assert_eq!(mapped, order.iter().map(|&i| plain[i].clone()).collect::<Vec<_>>());
        assert_eq!(logits(&file, &same, true), plain);
    }
    network(&file, "classes", known());
    let expected = scores(&file, &same, false).unwrap();
    assert!(expected.iter().any(|score| *score != expected[0]), "{expected:?}");
    assert_eq!(scores(&file, &other, true).unwrap(), expected);
}

#[test]
fn a_network_in_memory_is_compared_as_that_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.safetensors");
    network(&file, "classes", known());
    let bytes = std::fs::read(&file).unwrap();
    let data = dataset(&dir.path().join("d.h5"), &meta(["coil", "helix", "sheet"]), &[]);
    let open = |map_classes| {
        let read = checkpoint::read(Path::new("mine"), &bytes, &Device::Cpu).unwrap();
        let models = Models { map_classes, ..Models::default() };
        models.network("mine".into(), Path::new("mine"), read, &data, &|_| ())
    };
    let message = open(false).unwrap_err().to_string();
    assert!(message.starts_with("mine: ") && message.contains("--map-classes"), "{message}");
    let network = open(true).unwrap();
    assert_eq!(network.name(), "mine");
    let mapped = run(&network, &data, &quick()).predictions;
    let models = Models { files: vec![file], map_classes: true, ..Models::default() };
    let of_file = models.open(&data, &Device::Cpu, &|_| ()).unwrap();
    assert_eq!(mapped, run(of_file[0].as_ref(), &data, &quick()).predictions);
}

#[test]
fn a_dataset_without_classes_takes_those_of_the_network() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.safetensors");
    network(&file, "classes", known());
    let none = DatasetMeta { class_names: vec![], ..meta(NAMES) };
    let data = dataset(&dir.path().join("d.h5"), &none, &[]);
    let open = |models: Models| models.open(&data, &Device::Cpu, &|_| ());
    let models = open(Models { files: vec![file], ..Models::default() }).unwrap();
    assert_eq!(models[0].class_names(), NAMES);
    assert_eq!(run(models[0].as_ref(), &data, &quick()).class_names, NAMES);
    let commands = vec!["cat".to_owned()];
    let Err(error) = open(Models { commands, ..Models::default() }) else { panic!("no classes") };
    let message = error.to_string();
    assert!(message.contains("has no classes") && message.contains("--class-names"), "{message}");
}

#[test]
fn what_differs_between_model_and_dataset_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.safetensors");
    network(&file, "classes", known());
    let ok = meta(NAMES);
    let message = |meta: DatasetMeta| {
        scores(&file, &dataset(&dir.path().join("d.h5"), &meta, &[]), true).unwrap_err()
    };
    let found = message(DatasetMeta { voxel_size: [2.0; 3], ..ok.clone() });
    assert!(
        found.contains("[1.5, 1.5, 1.5] angstrom") && found.contains("[2.0, 2.0, 2.0]"),
        "{found}"
    );
    let found = message(DatasetMeta { unit: "nm".into(), ..ok.clone() });
    assert!(found.contains("angstrom but dataset folds has") && found.contains(" nm;"), "{found}");
    let found = message(DatasetMeta { irreps: "1x0o".parse().unwrap(), ..ok.clone() });
    assert!(found.contains("turn as") && found.contains("1x0o"), "{found}");
    let notes = "channels: N; weight of an atom: 1".into();
    let provenance = Provenance { notes, ..Provenance::default() };
    let found = message(DatasetMeta { provenance, ..ok.clone() });
    assert!(found.contains("channels: C") && found.contains("channels: N"), "{found}");

    // The file of an older version does not tell: it is said and evaluated.
    network(&file, "classes", Meaning::default());
    let data = dataset(&dir.path().join("d.h5"), &ok, &[]);
    let notes = std::cell::RefCell::new(vec![]);
    let models = Models { files: vec![file.clone()], ..Models::default() };
    models.open(&data, &Device::Cpu, &|note| notes.borrow_mut().push(note.to_owned())).unwrap();
    let notes = notes.into_inner();
    assert!(notes.len() == 1 && notes[0].contains("how the channels turn"), "{notes:?}");
}
