//! What the project is for: trained in one orientation, a steerable network keeps its accuracy in all
//! others, and a plain one does not.

use std::ops::ControlFlow;
use std::path::Path;

use steer3d::dataset::{DatasetMeta, DatasetWriter, Grids, Item, Provenance, Storage};
use steer3d::eval::{Condition, NetworkPredictor, Source, SourceReport};
use steer3d::prelude::*;
use steer3d::so3::Stream;
use steer3d::volume::{PointCloud, Voxeliser};

const ARMS: [&[[f64; 3]]; 3] = [
    &[[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]],
    &[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
    &[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
];

/// Rods, bends and tripods of points, all lying along the axes, a little disturbed: 24 of each for
/// training and 16 for the test.
fn shapes(path: &Path) -> Dataset {
    let voxeliser = Voxeliser { sigma: 1.5, ..Voxeliser::paper(13, 1.0) };
    let meta = DatasetMeta {
        name: "shapes".into(),
        class_names: ["rod", "bend", "tripod"].map(String::from).to_vec(),
        channels: 1,
        grids: Grids::One,
        dims: [13; 3],
        voxel_size: [1.0; 3],
        unit: "voxel".into(),
        irreps: "1x0".parse().unwrap(),
        storage: Storage::F32,
        provenance: Provenance::default(),
        voxeliser: Some(voxeliser),
        mesh_voxeliser: None,
        recipe: None,
    };
    let mut writer = DatasetWriter::create(path, meta).unwrap();
    for i in 0..120 {
        let class = i % 3;
        let mut stream = Stream::new(7, "shape", &[i as u64]);
        let mut positions = vec![[0.0; 3]];
        for arm in ARMS[class] {
            for step in 1..=3 {
                positions.push(arm.map(|c| f64::from(step) * c + 0.2 * stream.normal()));
            }
        }
        let channels = vec![0; positions.len()];
        let cloud = PointCloud::new(positions, channels).unwrap().centred();
        let volume = voxeliser.voxelise(&cloud, &Rotation::identity()).unwrap();
        let item = Item {
            volume: Some(&volume),
            label: class as u32,
            split: if i < 72 { Split::Train } else { Split::Test },
            id: &format!("{i}"),
            points: Some(&cloud),
            ..Item::default()
        };
        writer.push(&item).unwrap();
    }
    writer.finish().unwrap();
    Dataset::open(path).unwrap()
}

/// Trains a network and measures it on turned points.
fn measured(model: &ModelConfig, dataset: &Dataset) -> SourceReport {
    let network = Network::new(model, 0, DType::F32, &Device::Cpu).unwrap();
    let settings = TrainConfig { epochs: 15, batch_size: 8, ..TrainConfig::default() };
    train(&network, dataset, &settings, None, &mut |_| ControlFlow::Continue(())).unwrap();
    let predictor = NetworkPredictor::new("network".into(), network).unwrap();
    let protocol = Protocol {
        rotations: 12,
        angles: vec![45.0, 90.0, 180.0],
        translations: vec![],
        sources: vec![Source::Points],
        layer_items: 0,
        ..Protocol::default()
    };
    let report =
        evaluate(&predictor, dataset, Split::Test, &protocol, None, &|_| ControlFlow::Continue(()))
            .unwrap();
    report.sources.into_iter().next().unwrap()
}

fn accuracy(report: &SourceReport, condition: Condition) -> f64 {
    report.condition(condition).unwrap().get("accuracy").unwrap().value
}

#[test]
fn a_steerable_network_stays_within_three_points_where_a_plain_one_falls() {
    let folder = tempfile::tempdir().unwrap();
    let dataset = shapes(&folder.path().join("shapes.h5"));
    let mut steerable = SteerableConfig::small(1, 3).unwrap();
    let block = |fields: &str, stride| SteerableBlock::new(fields.parse().unwrap(), 5, stride);
    steerable.blocks = vec![block("4x0+2x1+1x2", 2), block("8x0+2x1", 1), block("16x0", 1)];
    let plain = PlainConfig::like(&steerable);
    let turned = measured(&ModelConfig::Steerable(steerable), &dataset);
    let unrotated = accuracy(&turned, Condition::Unrotated);
    assert!(unrotated >= 0.95, "{unrotated}");
    for report in &turned.conditions {
        let change = report.get("accuracy").unwrap().value - unrotated;
        assert!(change.abs() <= 0.03, "{}: {change}", report.condition);
    }
    let turned = measured(&ModelConfig::Plain(plain), &dataset);
    let fall = accuracy(&turned, Condition::Unrotated) - accuracy(&turned, Condition::Random);
    assert!(fall > 0.1, "{fall}");
}
