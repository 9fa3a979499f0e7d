//! Answers for files, against the network itself and against hand-made ones.

use std::fs;
use std::io::{BufReader, Cursor};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use nalgebra::Vector3;
use steer3d_dataset::{
    Atoms, DatasetMeta, DatasetWriter, Fit, Intensity, Item, Recipe, Split, import_hdf5,
};
use steer3d_formats::{FileContents, Nan, Voxels, read, write_volume, write_volume_along};
use steer3d_nn::checkpoint::{FORMAT, Meaning, ModelCard, Origin};
use steer3d_nn::{Head, Mode, ModelConfig, Network, PlainConfig, SteerableConfig, Typical};
use steer3d_predict::{
    Answer, Identity, Inputs, MapFormat, Model, Options, Output, Record, Windows, predict,
};
use steer3d_so3::{Irreps, Rotation, Stream};
use steer3d_volume::{ChannelScheme, Grid, Volume, Voxeliser, Weight};

const SIZE: usize = 13;

fn molecules() -> Recipe {
    Recipe::Molecules {
        atoms: Atoms::All,
        channels: ChannelScheme::Single,
        weight: Weight::One,
        voxeliser: Voxeliser { sigma: 1.5, ..Voxeliser::paper(SIZE, 1.5) },
    }
}

fn volumes(fit: Fit) -> Recipe {
    volumes_in("angstrom", fit)
}

fn volumes_in(unit: &str, fit: Fit) -> Recipe {
    let irreps = "1x0".parse().unwrap();
    let (dims, voxel_size, unit) = ([SIZE; 3], [1.5; 3], unit.to_owned());
    Recipe::Volumes {
        irreps,
        dims,
        voxel_size,
        unit,
        factor: 1.0,
        intensity: Intensity::AsStored,
        fit,
        nan: Nan::Refuse,
    }
}

/// A network with random weights and a recipe.
fn model(head: Head, classes: usize, recipe: Option<Recipe>) -> Model {
    let mut config = match head {
        Head::Voxels => SteerableConfig::unet(1, classes).unwrap(),
        _ => SteerableConfig::small(1, classes).unwrap(),
    };
    config.head = head;
    if let Head::Field { irreps, .. } = &config.head {
        config.blocks.last_mut().unwrap().fields = "8x0+8x1".parse().unwrap();
        assert_eq!(irreps.dim(), 4);
    }
    let config = ModelConfig::from(config);
    let network = Network::new(&config, 3, DType::F32, &Device::Cpu).unwrap();
    let names = |n: usize| (0..n).map(|i| format!("class {i}")).collect::<Vec<_>>();
    let card = ModelCard {
        format: FORMAT,
        version: "0.0.0".into(),
        dataset: "made".into(),
        seed: 3,
        class_names: names(classes),
        dims: [SIZE; 3],
        voxel_size: [1.5; 3],
        unit: "angstrom".into(),
        meaning: Meaning {
            voxel_classes: names(classes),
            targets: Some("1x0+1x1".parse().unwrap()),
            target_names: vec!["energy".into(), "dipole".into()],
            target_units: vec!["eV".into(), "D".into()],
            recipe: recipe.map(|recipe| toml::Table::try_from(recipe).unwrap()),
            ..Meaning::default()
        },
        origin: Origin::default(),
        model: config,
    };
    Model::new("made", network, card, None).unwrap()
}

/// `count` molecules of XYZ, each a file of its own.
fn files(folder: &Path, count: usize) -> Vec<PathBuf> {
    let file = |i: usize| {
        let mut stream = Stream::new(0, "predict", &[i as u64]);
        let mut atom = || {
            format!(
                "C {:.3} {:.3} {:.3}\n",
                stream.normal(),
                3.0 * stream.normal(),
                stream.normal()
            )
        };
        let path = folder.join(format!("molecule {i:03}.xyz"));
        fs::write(&path, format!("6\nmade\n{}", (0..6).map(|_| atom()).collect::<String>()))
            .unwrap();
        path
    };
    (0..count).map(file).collect()
}

fn names(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.display().to_string()).collect()
}

fn inputs(names: &[String], model: &Model) -> Inputs {
    Inputs::of(names, || Box::new(Cursor::new("")), model).unwrap()
}

fn all(model: &Model, inputs: &Inputs, options: &Options) -> Vec<Record> {
    let mut records = vec![];
    let mut sink = |record, _| {
        records.push(record);
        Ok(ControlFlow::Continue(()))
    };
    predict(model, inputs, options, 0, &mut sink, &|_| ControlFlow::Continue(())).unwrap();
    records
}

fn probabilities(record: &Record) -> &[f64] {
    match &record.answer {
        Some(Answer::Classes { probabilities, .. }) => probabilities,
        other => panic!("{other:?} {:?}", record.error),
    }
}

#[test]
fn answers_are_those_of_the_network_for_the_volumes_of_the_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let (model, recipe) = (model(Head::Classes, 3, Some(molecules())), molecules());
    let paths = files(folder.path(), 40);
    let records = all(
        &model,
        &inputs(&names(&paths), &model),
        &Options { features: true, ..Options::default() },
    );
    assert_eq!(records.len(), paths.len());
    let network = Network::new(&model.card().model, 3, DType::F32, &Device::Cpu).unwrap();
    for (path, record) in paths.iter().zip(&records) {
        assert_eq!(record.item, path.display().to_string());
        let made = recipe.prepare(read(path).unwrap()).unwrap();
        let volume = recipe.volume(&made, &Rotation::identity()).unwrap();
        let x =
            Tensor::from_vec(volume.into_data(), (1, 1, SIZE, SIZE, SIZE), &Device::Cpu).unwrap();
        let logits = network.folded().unwrap().forward(&x).unwrap().flatten_all().unwrap();
        let logits: Vec<f64> =
            logits.to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect();
        let exact = network.forward(&x, Mode::Evaluate).unwrap().flatten_all().unwrap();
        assert!((exact.to_vec1::<f32>().unwrap()[0] - logits[0] as f32).abs() < 1e-4);
        let most = logits.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = logits.iter().map(|x| (x - most).exp()).sum();
        for (found, logit) in probabilities(record).iter().zip(&logits) {
            assert!((found - (logit - most).exp() / sum).abs() < 1e-12);
        }
        assert_eq!(record.features.as_ref().unwrap().len(), 48);
    }
}

/// Runs into a file, stops after `count` new records if told, and gives what is in the file at the end.
fn into_file(
    model: &Model,
    inputs: &Inputs,
    out: &Path,
    resume: bool,
    count: Option<usize>,
) -> Option<Vec<u8>> {
    let options = Options { rotations: 2, features: true, ..Options::default() };
    let identity = Identity::new(model, inputs, &options).unwrap();
    let mut output = Output::open(out, &identity, inputs, resume).unwrap();
    let first = output.records().len();
    let mut done = 0;
    let mut sink = |record, sha256| {
        output.add(record, sha256)?;
        done += 1;
        Ok(if Some(done) == count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    predict(model, inputs, &options, first, &mut sink, &|_| ControlFlow::Continue(())).unwrap();
    if count.is_some() {
        return None;
    }
    output.finish(model).unwrap();
    Some(fs::read(out).unwrap())
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_bytes_and_sees_changed_files() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(Head::Classes, 3, Some(molecules()));
    let mut paths = files(folder.path(), 45);
    fs::write(&paths[17], "no molecule").unwrap();
    paths.push(folder.path().join("missing.pdb"));
    let inputs = inputs(&names(&paths), &model);
    for kind in ["csv", "jsonl", "npz"] {
        let out = folder.path().join(format!("answers.{kind}"));
        let whole = into_file(&model, &inputs, &out, false, None).unwrap();
        fs::remove_file(&out).unwrap();
        for stop in [1, 16, 44] {
            into_file(&model, &inputs, &out, false, Some(stop));
            assert!(!out.exists());
            let resumed = into_file(&model, &inputs, &out, true, None).unwrap();
            assert!(resumed == whole, "{kind} {stop}");
            fs::remove_file(&out).unwrap();
        }
        // One thread, and a file that changed meanwhile.
        into_file(&model, &inputs, &out, false, Some(30));
        let before = fs::read(&paths[20]).unwrap();
        fs::write(&paths[20], String::from_utf8(before.clone()).unwrap().replace("C ", "N 1"))
            .unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let resumed = pool.install(|| into_file(&model, &inputs, &out, true, None)).unwrap();
        let fresh = into_file(&model, &inputs, &out, false, None).unwrap();
        assert!(resumed == fresh && fresh != whole, "{kind}");
        fs::write(&paths[20], before).unwrap();
        // The missing file is none, and nothing is left beside the answers.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), paths.len(), "{kind}");
        fs::remove_file(&out).unwrap();
    }
}

#[test]
fn a_bad_file_is_one_line_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(Head::Classes, 3, Some(molecules()));
    let at = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let cube = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n";
    let bad = [
        (at("empty.pdb", ""), "empty"),
        (at("mesh.off", cube), "expected a molecule, found a mesh"),
        (at("no atoms.xyz", "0\nnone\n"), ""),
        (at("nan.xyz", "1\nmade\nC nan 0 0\n"), "line 3"),
        (
            at(
                "water.pdb",
                "HETATM    1  O   HOH A   1       0.000   0.000   0.000  1.00  0.00           O\n",
            ),
            "at least one atom",
        ),
        (folder.path().join("missing.pdb"), "missing.pdb"),
    ];
    let mut paths: Vec<PathBuf> = bad.iter().map(|(path, _)| path.clone()).collect();
    paths.extend(files(folder.path(), 2));
    let records = all(&model, &inputs(&names(&paths), &model), &Options::default());
    for ((path, expected), record) in bad.iter().zip(&records) {
        let error = record.error.as_ref().unwrap_or_else(|| panic!("{}", path.display()));
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(record.answer.is_none());
    }
    assert!(records[bad.len()..].iter().all(|record| record.error.is_none()));
}

#[test]
fn atoms_outside_of_the_grid_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(Head::Classes, 3, Some(molecules()));
    let path = folder.path().join("long.xyz");
    let atoms: String = (0..10).map(|i| format!("C {}.0 0 0\n", 4 * i)).collect();
    fs::write(&path, format!("10\nmade\n{atoms}")).unwrap();
    let record = all(&model, &inputs(&names(&[path]), &model), &Options::default()).remove(0);
    // The middle is at 18, the grid reaches 9.75 from it: atoms 0, 4, 8 and 28, 32, 36 are outside.
    assert_eq!(record.warnings.len(), 1);
    assert!(
        record.warnings[0].starts_with("60 % of the atoms lie outside"),
        "{:?}",
        record.warnings
    );
}

#[test]
fn vectors_are_given_in_the_coordinates_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let irreps: Irreps = "1x0+1x1".parse().unwrap();
    let model = model(Head::Field { irreps, pooled: true }, 0, Some(molecules()));
    let turn = steer3d_so3::cube_group()[7];
    let path = files(folder.path(), 1).remove(0);
    let mut lines = vec!["6".to_owned(), "turned".to_owned()];
    for line in fs::read_to_string(&path).unwrap().lines().skip(2) {
        let xyz: Vec<f64> = line.split(' ').skip(1).map(|x| x.parse().unwrap()).collect();
        let [x, y, z] = <[f64; 3]>::from(turn * Vector3::new(xyz[0], xyz[1], xyz[2]));
        lines.push(format!("C {x:.3} {y:.3} {z:.3}"));
    }
    let turned = folder.path().join("turned.xyz");
    fs::write(&turned, lines.join("\n")).unwrap();
    let inputs = inputs(&names(&[path, turned]), &model);
    // A turn of the cube is exact; evenly spread rotations meet other grids.
    for (rotations, tolerance) in [(1, 1e-3), (12, 0.4)] {
        let records = all(&model, &inputs, &Options { rotations, ..Options::default() });
        let named = |record: &Record| match &record.answer {
            Some(Answer::Values(named)) => named.clone(),
            other => panic!("{other:?}"),
        };
        let (a, b) = (named(&records[0]), named(&records[1]));
        assert_eq!(
            (a[0].name.as_str(), a[1].name.as_str(), a[1].unit.as_str()),
            ("energy", "dipole", "D")
        );
        assert!((a[0].components[0] - b[0].components[0]).abs() < 0.05 * a[0].components[0].abs());
        let of = |v: &[f64]| Vector3::new(v[0], v[1], v[2]);
        let (a, b) = (of(&a[1].components), of(&b[1].components));
        assert!((turn * a - b).norm() < tolerance * a.norm(), "{rotations}: {a} {b}");
        assert_eq!(records[0].stability.is_some(), rotations > 1);
        if let Some(stability) = records[0].stability {
            assert!(stability.deviation > 0.0 && stability.deviation < a.norm());
        }
    }
}

/// Of an item that cannot be answered the record says why, and the others are answered.
#[test]
fn files_in_another_unit_or_too_small_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str, edge: usize| {
        let grid = Grid::new([edge; 3], [1.5; 3]).unwrap();
        let volume = Volume::centred(vec![1.0; grid.voxels()], 1, grid).unwrap();
        let path = folder.path().join(name);
        write_volume(&path, &volume, Voxels::Values).unwrap();
        path
    };
    let files = [at("brain.nii", 12), at("small.mrc", 2), at("map.mrc", 12)];
    let errors = |model: &Model, rotations| -> Vec<String> {
        let inputs = inputs(&names(&files), model);
        let records = all(model, &inputs, &Options { rotations, ..Options::default() });
        records.into_iter().map(|record| record.error.unwrap_or_default()).collect()
    };
    let steerable = model(Head::Voxels, 3, Some(volumes(Fit::Refuse)));
    let plain = PlainConfig { head: Head::Voxels, ..PlainConfig::unet(1, 3) };
    let network = Network::new(&plain.into(), 1, DType::F32, &Device::Cpu).unwrap();
    let card = ModelCard { model: network.config().clone(), ..steerable.card().clone() };
    let plain = Model::new("plain", network, card, None).unwrap();
    for rotations in [1, 2] {
        let found = errors(&steerable, rotations);
        assert!(found[0].contains("mm instead of angstrom"), "{found:?}");
        assert_eq!(found[1..], ["", ""]);
        let native = model(Head::Voxels, 3, Some(volumes(Fit::Refuse))).with_native_voxels();
        let found = errors(&native.unwrap(), rotations);
        assert!(found[0].contains("mm instead of angstrom"), "{found:?}");
        assert_eq!(found[1..], ["", ""]);
        let found = errors(&plain, rotations);
        assert!(found[0].contains("mm instead of angstrom"), "{found:?}");
        assert!(found[1].contains("[2, 2, 2]") && found[1].contains("needs 4"), "{found:?}");
        assert_eq!(found[2], "");
    }
    // What options cannot do is said at once.
    let windows = Some(Windows { size: [8; 3], overlap: 0.5 });
    let classes = model(Head::Classes, 3, Some(volumes(Fit::Refuse)));
    for (model, options, expected) in [
        (&classes, Options { windows, ..Options::default() }, "label voxels"),
        (&steerable, Options { windows, rotations: 2, ..Options::default() }, "several rotations"),
        (&steerable, Options { features: true, ..Options::default() }, "features"),
    ] {
        let inputs = inputs(&names(&files), model);
        let mut sink = |record: Record, _| panic!("{record:?}");
        let watch = |_| ControlFlow::Continue(());
        let error = predict(model, &inputs, &options, 0, &mut sink, &watch).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn labels_of_voxels_have_the_grid_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(Head::Voxels, 3, Some(volumes_in("unstated", Fit::Refuse)));
    let grid = Grid::new([9, 14, 11], [1.5; 3]).unwrap();
    let mut stream = Stream::new(0, "labels", &[]);
    let data = (0..grid.voxels()).map(|_| stream.uniform() as f32).collect();
    let volume = Volume::new(data, 1, grid, [3.0, -4.5, 6.0]).unwrap();
    let at = |name: &str| folder.path().join(name);
    write_volume(&at("map.mrc"), &volume, Voxels::Values).unwrap();
    write_volume(&at("image.nii"), &volume, Voxels::Values).unwrap();
    let out = at("labels");
    fs::create_dir(&out).unwrap();
    let inputs = inputs(&names(&[at("map.mrc"), at("image.nii")]), &model);
    for rotations in [1, 3] {
        let maps = Some(out.clone());
        let options = Options { rotations, maps, probabilities: true, ..Options::default() };
        let records = all(&model, &inputs, &options);
        let network = Network::new(&model.card().model, 3, DType::F32, &Device::Cpu).unwrap();
        let x = Tensor::from_slice(volume.data(), (1, 1, 9, 14, 11), &Device::Cpu).unwrap();
        let logits = network.folded().unwrap().forward(&x).unwrap();
        let best: Vec<u32> = logits.argmax(1).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        for (record, name) in records.iter().zip(["map.labels.mrc", "image.labels.nii"]) {
            let Some(Answer::Voxels { shares, map }) = &record.answer else { panic!("{record:?}") };
            assert_eq!(map.as_deref(), out.join(name).to_str());
            assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            let steer3d_formats::FileContents::Volume(labels) = read(&out.join(name)).unwrap()
            else {
                panic!()
            };
            assert_eq!((labels.dims(), labels.voxel_size()), (volume.dims(), volume.voxel_size()));
            assert_eq!(labels.origin(), volume.origin());
            let same = labels.data().iter().zip(&best).filter(|(a, b)| **a == **b as f32).count();
            assert!(same == best.len() || rotations > 1, "{same} of {}", best.len());
            let more = name.replace("labels", "probabilities");
            let steer3d_formats::FileContents::Volume(p) = read(&out.join(more)).unwrap() else {
                panic!()
            };
            let voxels = grid.voxels();
            for voxel in 0..voxels {
                let sum: f32 = (0..3).map(|c| p.data()[c * voxels + voxel]).sum();
                assert!((sum - 1.0).abs() < 1e-3 || rotations > 1);
            }
        }
    }
    // Other voxels are resampled there and back where the recipe or the user says so.
    let coarse =
        Volume::new(vec![1.0; 8 * 6 * 7], 1, Grid::new([8, 6, 7], [2.0; 3]).unwrap(), [0.0; 3])
            .unwrap();
    write_volume(&at("coarse.mrc"), &coarse, Voxels::Values).unwrap();
    let path = names(&[at("coarse.mrc")]);
    let refused = all(&model, &self::inputs(&path, &model), &Options::default()).remove(0);
    assert!(refused.error.unwrap().contains("--fit resample"));
    let model = self::model(Head::Voxels, 3, Some(volumes(Fit::Resample)));
    let options = Options { maps: Some(out.clone()), ..Options::default() };
    let record = all(&model, &self::inputs(&path, &model), &options).remove(0);
    assert_eq!(record.error, None);
    let steer3d_formats::FileContents::Volume(labels) =
        read(&out.join("coarse.labels.mrc")).unwrap()
    else {
        panic!()
    };
    assert_eq!((labels.dims(), labels.origin()), (coarse.dims(), coarse.origin()));
}

#[test]
fn kernels_are_sampled_for_the_voxels_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut stream = Stream::new(5, "native", &[]);
    let mut map = |name: &str, dims: [usize; 3], edges: [f64; 3]| {
        let grid = Grid::new(dims, edges).unwrap();
        let data = (0..grid.voxels()).map(|_| stream.uniform() as f32).collect();
        let volume = Volume::new(data, 1, grid, [1.0, -2.0, 30.0]).unwrap();
        write_volume(&at(name), &volume, Voxels::Values).unwrap();
        volume
    };
    let slices = map("slices.mrc", [7, 13, 12], [1.5, 1.5, 3.75]);
    let cubes = map("cubes.mrc", [9, 10, 11], [1.5, 1.5, 1.5]);
    map("thick.mrc", [7, 13, 12], [1.5, 1.5, 9.0]);
    let model = || self::model(Head::Voxels, 3, Some(volumes(Fit::Resample)));
    let model = model().with_native_voxels().unwrap();
    let out = at("labels");
    fs::create_dir(&out).unwrap();
    let all_names = names(&["slices.mrc", "cubes.mrc", "thick.mrc"].map(at));
    let inputs = inputs(&all_names, &model);
    let network = Network::new(&model.card().model, 3, DType::F32, &Device::Cpu).unwrap();
    // The model's card has voxels of 1.5, and its network those of 1.
    let expected = |volume: &Volume, spacing: [f64; 3]| -> Vec<u32> {
        let [d, h, w] = volume.dims();
        let x = Tensor::from_slice(volume.data(), (1, 1, d, h, w), &Device::Cpu).unwrap();
        let network = network.at_spacing(spacing).unwrap().folded().unwrap();
        let best = network.forward(&x).unwrap().argmax(1).unwrap();
        best.flatten_all().unwrap().to_vec1().unwrap()
    };
    let expected = [expected(&slices, [1.0, 1.0, 2.5]), expected(&cubes, [1.0; 3])];
    for rotations in [1, 2] {
        let options = Options { rotations, maps: Some(out.clone()), ..Options::default() };
        let records = all(&model, &inputs, &options);
        for (name, (volume, best)) in
            ["slices", "cubes"].into_iter().zip([&slices, &cubes].into_iter().zip(&expected))
        {
            let path = out.join(format!("{name}.labels.mrc"));
            let FileContents::Volume(labels) = read(&path).unwrap() else { panic!() };
            assert_eq!(labels.dims(), volume.dims());
            let same = labels.data().iter().zip(best).filter(|(a, b)| **a == **b as f32).count();
            assert!(same == best.len() || rotations > 1, "{name}: {same} of {}", best.len());
        }
        let [slices, cubes, thick] = &records[..] else { panic!("three records") };
        assert!(slices.warnings[0].contains("2.5 times as coarse"), "{:?}", slices.warnings);
        assert!(cubes.warnings.is_empty() && cubes.error.is_none());
        let error = thick.error.as_ref().unwrap();
        assert!(error.contains("along z is 6") && error.contains("resample"), "{error}");
    }
    let classes = self::model(Head::Classes, 3, Some(molecules())).with_native_voxels();
    assert!(classes.unwrap_err().to_string().contains("labels voxels"));
}

#[test]
fn a_map_is_labelled_as_a_whole_whatever_its_depth_and_voxels() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut stream = Stream::new(4, "maps", &[]);
    let mut map = |name: &str, dims: [usize; 3], edge: f64| {
        let grid = Grid::new(dims, [edge; 3]).unwrap();
        let data = (0..grid.voxels()).map(|_| stream.uniform() as f32).collect();
        let volume = Volume::new(data, 1, grid, [1.0, -2.0, 30.0]).unwrap();
        write_volume(&at(name), &volume, Voxels::Values).unwrap();
    };
    map("fine.mrc", [41, 12, 13], 1.5);
    map("coarse.mrc", [23, 11, 12], 2.25);
    let model = model(Head::Voxels, 3, Some(volumes(Fit::Resample)));
    let (streamed, turned) = (at("streamed"), at("turned"));
    [&streamed, &turned].iter().for_each(|folder| fs::create_dir(folder).unwrap());
    let names = names(&[at("fine.mrc"), at("coarse.mrc")]);
    let inputs = inputs(&names, &model);
    let labelled = |maps: &Path, rotations| {
        let maps = Some(maps.to_owned());
        let options = Options { rotations, maps, probabilities: true, ..Options::default() };
        all(&model, &inputs, &options)
    };
    // Whoever watches hears of the parts of a map, and may stop within it: nothing is written then.
    let halted = at("halted");
    fs::create_dir(&halted).unwrap();
    let options = Options { maps: Some(halted.clone()), ..Options::default() };
    let mut none = |_, _| panic!("a record of a map that was not done");
    let watch =
        |share| if share > 0.4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    predict(&model, &inputs, &options, 0, &mut none, &watch).unwrap();
    assert_eq!(fs::read_dir(&halted).unwrap().count(), 0);
    // The mean over several rotations takes the other road: all of the map at once.
    let records = labelled(&streamed, 1);
    let several = labelled(&turned, 2);
    assert!(records.iter().chain(&several).all(|record| record.error.is_none()));
    for (name, dims) in [("fine", [41, 12, 13]), ("coarse", [23, 11, 12])] {
        let FileContents::Volume(labels) =
            read(&streamed.join(format!("{name}.labels.mrc"))).unwrap()
        else {
            panic!()
        };
        let path = streamed.join(format!("{name}.probabilities.mrc"));
        let FileContents::Volume(p) = read(&path).unwrap() else { panic!() };
        assert_eq!((labels.dims(), p.dims(), p.channels()), (dims, dims, 3));
        let FileContents::Volume(source) = read(&at(&format!("{name}.mrc"))).unwrap() else {
            panic!()
        };
        assert_eq!((labels.grid(), labels.origin()), (source.grid(), source.origin()));
        let expected = of_voxels(&model, &source);
        let largest = p.data().iter().zip(expected.data()).map(|(a, b)| (a - b).abs());
        let largest = largest.fold(0.0, f32::max);
        assert!(largest < 1e-5, "{name}: {largest}");
        let voxels = source.grid().voxels();
        for voxel in 0..voxels {
            let of = |class: usize| p.data()[class * voxels + voxel];
            let label = labels.data()[voxel] as usize;
            assert!((0..3).all(|class| of(class) <= of(label)));
        }
    }
}

#[test]
fn maps_in_hdf5_hold_what_other_formats_do() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let model = model(Head::Voxels, 3, Some(volumes_in("unstated", Fit::Refuse)));
    let mut stream = Stream::new(6, "maps", &[]);
    let grid = Grid::new([14, 12, 13], [1.5; 3]).unwrap();
    let data = (0..grid.voxels()).map(|_| stream.uniform() as f32).collect();
    let volume = Volume::new(data, 1, grid, [1.0, -2.0, 30.0]).unwrap();
    write_volume(&at("map.mrc"), &volume, Voxels::Values).unwrap();
    let turn = Rotation::from_axis_angle(&Vector3::z_axis(), 0.3);
    write_volume_along(&at("turned.nii"), &volume, Voxels::Values, turn.matrix()).unwrap();
    let meta = DatasetMeta::scalars(1, &grid).unwrap();
    let meta = DatasetMeta { name: "set".into(), unit: "angstrom".into(), ..meta };
    let mut writer = DatasetWriter::create(at("set.h5"), meta).unwrap();
    let item = Item { volume: Some(&volume), split: Split::Test, id: "item", ..Item::default() };
    writer.push(&item).unwrap();
    writer.finish().unwrap();
    let [out, halted] = ["out", "halted"].map(at);
    [&out, &halted].iter().for_each(|folder| fs::create_dir(folder).unwrap());
    let inputs = inputs(&names(&["map.mrc", "turned.nii", "set.h5"].map(at)), &model);
    let of_hdf5 = inputs.clone().with_map_format(MapFormat::Hdf5);
    for rotations in [1, 2] {
        let maps = Some(out.clone());
        let options = Options { rotations, maps, probabilities: true, ..Options::default() };
        let records = [all(&model, &inputs, &options), all(&model, &of_hdf5, &options)].concat();
        let file = |record: &Record| match &record.answer {
            Some(Answer::Voxels { map: Some(map), .. }) => map.clone(),
            other => panic!("{other:?} {:?}", record.error),
        };
        let own = ["map.labels.mrc", "turned.labels.nii", "item.labels.h5"];
        let asked = ["map.labels.h5", "turned.labels.h5", "item.labels.h5"];
        let expected = [own, asked].concat().into_iter().map(|name| out.join(name));
        let expected = names(&expected.collect::<Vec<_>>());
        assert_eq!(records.iter().map(file).collect::<Vec<_>>(), expected);
        for (what, channels) in [("labels", 1), ("probabilities", 3)] {
            let FileContents::Volume(other) = read(&out.join(format!("map.{what}.mrc"))).unwrap()
            else {
                panic!()
            };
            for stem in ["map", "turned", "item"] {
                let found = import_hdf5(&out.join(format!("{stem}.{what}.h5")), what).unwrap();
                assert_eq!((found.channels(), found.dims()), (channels, grid.dims()));
                // The edges of the voxels of an oblique image are rounded, and so are turned ones.
                let rounded = stem == "turned" && rotations > 1;
                assert!(rounded || found.data() == other.data(), "{stem} {what} {rotations}");
            }
        }
    }
    let holds = |name: &str, part: &[u8]| {
        let bytes = fs::read(out.join(name)).unwrap();
        bytes.windows(part.len()).any(|window| window == part)
    };
    for name in ["map.labels.h5", "item.probabilities.h5"] {
        assert!(holds(name, b"angstrom") && holds(name, b"class 2"), "{name}");
    }
    let rows = steer3d_formats::direction(&at("turned.nii")).unwrap().transpose();
    let bytes: Vec<u8> = rows.as_slice().iter().flat_map(|x| x.to_le_bytes()).collect();
    assert!(holds("turned.labels.h5", &bytes) && !holds("map.labels.h5", &bytes));
    // A run that is stopped within a map leaves nothing of it.
    let options = Options { maps: Some(halted.clone()), ..Options::default() };
    let mut none = |_, _| panic!("a record of a map that was not done");
    predict(&model, &of_hdf5, &options, 0, &mut none, &|_| ControlFlow::Break(())).unwrap();
    assert_eq!(fs::read_dir(&halted).unwrap().count(), 0);
}

/// Probabilities of the whole volume, by the network itself, on the grid of the volume.
fn of_voxels(model: &Model, volume: &Volume) -> Volume {
    let whole = model.recipe().unwrap().prepare_whole(volume.clone()).unwrap();
    let network = Network::new(&model.card().model, 3, DType::F32, &Device::Cpu).unwrap();
    let [d, h, w] = whole.dims();
    let x = Tensor::from_slice(whole.data(), (1, 1, d, h, w), &Device::Cpu).unwrap();
    let logits = network.folded().unwrap().forward(&x).unwrap();
    let p = candle_nn::ops::softmax(&logits, 1).unwrap();
    let p = p.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let p = Volume::new(p, 3, whole.grid(), whole.origin()).unwrap();
    if whole.grid() == volume.grid() {
        return p;
    }
    let still = nalgebra::Affine3::identity();
    let how = steer3d_volume::Interpolation::Trilinear;
    let scalars = "3x0".parse().unwrap();
    steer3d_volume::resample_to(&p, &scalars, volume.grid(), volume.origin(), &still, how).unwrap()
}

#[test]
fn what_is_unlike_the_training_data_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let plain = model(Head::Classes, 3, Some(molecules()));
    let inputs = inputs(&names(&files(folder.path(), 60)), &plain);
    let records = all(&plain, &inputs, &Options { features: true, ..Options::default() });
    let features: Vec<Vec<f32>> =
        records.into_iter().map(|record| record.features.unwrap()).collect();
    let network = Network::new(&plain.card().model, 3, DType::F32, &Device::Cpu).unwrap();
    let mut card = plain.card().clone();
    card.origin.typical = Some(Typical::of(&features[..40], &features[40..]).unwrap());
    let model = Model::new("made", network, card, None).unwrap();
    let path = folder.path().join("many.xyz");
    let atom = |i: i32| format!("C {} {} {}\n", i % 5 - 2, i / 5 % 5 - 2, i / 25 - 2);
    fs::write(&path, format!("125\nmade\n{}", (0..125).map(atom).collect::<String>())).unwrap();
    let known = all(&model, &inputs, &Options::default());
    let unlike = known.iter().filter(|record| record.unlike.unwrap() > 1.0).count();
    assert!(unlike < 6, "{unlike} of 60");
    let record = all(&model, &self::inputs(&names(&[path]), &model), &Options::default()).remove(0);
    assert!(record.unlike.unwrap() > 1.0);
    assert!(record.warnings[0].starts_with("unlike the training data"));
}

#[test]
fn a_model_of_proteins_warns_of_what_it_leaves_out() {
    let model = Model::open("cath-class", None, &Device::Cpu).unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats/tests/data/molecules");
    let warnings = |name: &str| {
        let inputs = inputs(&names(&[data.join(name)]), &model);
        all(&model, &inputs, &Options::default()).remove(0).warnings
    };
    // DNA with a peptide of eight residues.
    let found = warnings("1pfe.cif.gz");
    assert!(found[0].contains("atoms of nucleic acids are left out"), "{found:?}");
    assert!(found[1].starts_with("few atoms: "), "{found:?}");
    assert!(warnings("1A8O.pdb.gz").is_empty());
}

#[test]
fn inputs_are_files_folders_lists_tables_and_records() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(Head::Classes, 3, Some(molecules()));
    let sub = folder.path().join("sub/deeper");
    fs::create_dir_all(&sub).unwrap();
    let paths = files(&sub, 3);
    fs::write(sub.join("notes.txt"), "not a molecule").unwrap();
    let two = folder.path().join("two.xyz");
    fs::write(&two, "1\na\nC 0 0 0\n1\nb\nN 0 0 0\n").unwrap();
    let list = folder.path().join("list.txt");
    fs::write(&list, "sub/deeper/molecule 001.xyz\n\n").unwrap();
    let table = folder.path().join("table.csv");
    fs::write(&table, "path\ntwo.xyz\n").unwrap();
    let text = |path: &Path| path.display().to_string();
    let of = |given: &[String], lines: &'static str| {
        Inputs::of(given, || Box::new(BufReader::new(lines.as_bytes())), &model)
    };
    let found = of(&[text(&folder.path().join("sub"))], "").unwrap();
    assert_eq!(found.items.iter().map(|i| i.name.clone()).collect::<Vec<_>>(), names(&paths));
    assert_eq!(found.ignored.len(), 1);
    let given = [text(&two), format!("@{}", text(&list)), text(&table), "-".to_owned()];
    let found = of(&given, "missing.pdb\n").unwrap();
    let items: Vec<&str> = found.items.iter().map(|input| input.name.as_str()).collect();
    let [first, second] = [1, 2].map(|record| format!("{}#{record}", text(&two)));
    let expected =
        [&*first, &*second, "sub/deeper/molecule 001.xyz", "two.xyz#1", "two.xyz#2", "missing.pdb"];
    assert_eq!(items, expected);
    let records = all(&model, &found, &Options::default());
    assert_eq!(records.iter().filter(|record| record.error.is_none()).count(), 5);
    assert_eq!(probabilities(&records[0]), probabilities(&records[3]));
    assert!(of(&[text(folder.path()), text(&folder.path().join("nowhere"))], "").is_ok());
    assert!(of(&["@missing.txt".to_owned()], "").is_err());
}

#[test]
fn models_and_recipes_that_cannot_be_used_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = files(folder.path(), 1);
    let without = model(Head::Classes, 3, None);
    let record = all(&without, &inputs(&names(&file), &without), &Options::default()).remove(0);
    assert!(record.error.unwrap().contains("--recipe"));
    let open = |name: &str| Model::open(name, None, &Device::Cpu).unwrap_err().to_string();
    assert!(open("nothing").contains("no such file"));
    let path = folder.path().join("recipe.toml");
    let wrong = |text: &str| {
        fs::write(&path, text).unwrap();
        Model::read_recipe(&path).unwrap_err().to_string()
    };
    for text in ["", "kind = \"molecules\"", "kind = \"dreams\"", "kind = 3", "\0"] {
        let message = wrong(text);
        assert!(message.contains("recipe.toml") && !message.contains('\n'), "{message}");
    }
    let good = toml::to_string(&molecules()).unwrap();
    fs::write(&path, &good).unwrap();
    assert_eq!(Model::read_recipe(&path).unwrap(), molecules());
    assert!(wrong(&good.replace("size = 13", "size = 0")).contains("recipe.toml"));
    let network = || Network::new(&without.card().model, 3, DType::F32, &Device::Cpu).unwrap();
    let refused = |recipe| {
        Model::new("made", network(), without.card().clone(), Some(recipe)).unwrap_err().to_string()
    };
    let elements = ChannelScheme::Elements { listed: vec![6, 7], other: false };
    let Recipe::Molecules { atoms, weight, voxeliser, .. } = molecules() else { panic!() };
    let voxeliser = Voxeliser { channels: 2, ..voxeliser };
    let two = Recipe::Molecules { atoms, channels: elements, weight, voxeliser };
    assert!(refused(two).contains("expected 1 channels"));
    let voxeliser = Voxeliser { channels: 1, voxel_size: 2.0, ..voxeliser };
    let coarse = Recipe::Molecules { atoms, channels: ChannelScheme::Single, weight, voxeliser };
    assert!(refused(coarse).contains("voxels of"));
}
