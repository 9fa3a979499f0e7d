//! Voxelised meshes: closed forms, direct sums, symmetry.

use std::f64::consts::PI;
use std::path::Path;

use nalgebra::Vector3;
use serde_json::Value;
use steer3d_formats::{FileContents, read};
use steer3d_so3::{Rotation, Stream, cube_group, random_rotations};
use steer3d_volume::{
    Inside, Interpolation, Mesh, MeshField, MeshVoxeliser, Volume, VolumeError, rotate,
};

type V = Vector3<f64>;

fn file(name: &str) -> Mesh {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats/tests/meshes").join(name);
    match read(&path).unwrap() {
        FileContents::Mesh(mesh) => mesh,
        other => panic!("{other:?}"),
    }
}

/// The box of the given edges about `centre`.
fn cuboid(edges: [f64; 3], centre: [f64; 3]) -> Mesh {
    let unit = file("Cube.off");
    let place = |v: &[f64; 3]| [0, 1, 2].map(|axis| v[axis] * edges[axis] + centre[axis]);
    Mesh::new(unit.vertices().iter().map(place).collect(), unit.triangles().to_vec()).unwrap()
}

/// Meshes as one, without joining them.
fn together(meshes: &[Mesh]) -> Mesh {
    let (mut vertices, mut triangles) = (Vec::new(), Vec::new());
    for mesh in meshes {
        let first = vertices.len() as u32;
        vertices.extend(mesh.vertices());
        triangles.extend(mesh.triangles().iter().map(|t| t.map(|i| i + first)));
    }
    Mesh::new(vertices, triangles).unwrap()
}

fn inside_out(mesh: &Mesh) -> Mesh {
    let triangles = mesh.triangles().iter().map(|&[a, b, c]| [a, c, b]).collect();
    Mesh::new(mesh.vertices().to_vec(), triangles).unwrap()
}

/// The mesh without its first `count` triangles.
fn torn(mesh: &Mesh, count: usize) -> Mesh {
    Mesh::new(mesh.vertices().to_vec(), mesh.triangles()[count..].to_vec()).unwrap()
}

fn corners(mesh: &Mesh) -> Vec<[V; 3]> {
    let corner = |&i: &u32| V::from(mesh.vertices()[i as usize]);
    mesh.triangles().iter().map(|t| [corner(&t[0]), corner(&t[1]), corner(&t[2])]).collect()
}

fn centres(volume: &Volume) -> Vec<V> {
    let [d, h, w] = volume.dims();
    let (origin, size) = (V::from(volume.origin()), V::from(volume.voxel_size()));
    let mut centres = Vec::new();
    for z in 0..d {
        for y in 0..h {
            for x in 0..w {
                centres.push(origin + V::new(x as f64, y as f64, z as f64).component_mul(&size));
            }
        }
    }
    centres
}

fn voxels(voxeliser: MeshVoxeliser, mesh: &Mesh) -> Volume {
    voxeliser.voxelise(mesh, &Rotation::identity()).unwrap()
}

fn sum(volume: &Volume) -> f64 {
    volume.data().iter().map(|&value| f64::from(value)).sum()
}

/// A tilted mesh in general position.
fn knot() -> Mesh {
    file("quadknot.obj.gz").centred().scaled_to(7.0).rotated(&random_rotations(5, 1)[0])
}

#[test]
fn a_cube_on_the_grid_is_exact() {
    // 4 x 6 x 2 voxels in the middle of 8 x 8 x 8.
    let cube = cuboid([2.0, 3.0, 1.0], [0.0; 3]);
    let inside = |p: &V| p.x.abs() < 1.0 && p.y.abs() < 1.5 && p.z.abs() < 0.5;
    let touched = |p: &V| p.x.abs() < 1.5 && p.y.abs() < 2.0 && p.z.abs() < 1.0;
    for samples in [1, 3] {
        let new =
            |field| MeshVoxeliser { supersampling: samples, ..MeshVoxeliser::new(8, 0.5, field) };
        let solid = voxels(new(MeshField::Solid), &cube);
        let surface = voxels(new(MeshField::Surface), &cube);
        for (i, centre) in centres(&solid).iter().enumerate() {
            assert_eq!(solid.data()[i], f32::from(u8::from(inside(centre))), "{centre}");
            let deep = centre.z.abs() < 0.4 && centre.x.abs() < 0.4 && centre.y.abs() < 0.9;
            // The cube is two voxels thick, so that its faces touch all.
            assert_eq!(surface.data()[i] > 0.0, touched(centre), "{centre}");
            assert!(!deep || samples == 1 || surface.data()[i] < 0.5, "{centre}");
        }
        assert_eq!(sum(&solid), 48.0);
    }
    let distance = voxels(MeshVoxeliser::new(8, 0.5, MeshField::Distance), &cube);
    for (value, centre) in distance.data().iter().zip(centres(&distance)) {
        let out = centre.abs() - V::new(1.0, 1.5, 0.5);
        let expected = out.sup(&V::zeros()).norm() + out.max().min(0.0);
        assert!((f64::from(*value) - expected).abs() < 1e-6, "{centre}: {value} {expected}");
    }
    let normals = voxels(MeshVoxeliser::new(8, 0.5, MeshField::Normals), &cube);
    for (i, centre) in centres(&normals).iter().enumerate() {
        // Each face lies between two layers of voxels, which share it.
        let half = |axis: usize, edge: f64| {
            let covered =
                (0..3).filter(|&a| a != axis).all(|a| centre[a].abs() < [1.0, 1.5, 0.5][a]);
            let near = (centre[axis].abs() - edge).abs() < 0.3;
            if covered && near { 0.5 * centre[axis].signum() } else { 0.0 }
        };
        for (axis, edge) in [1.0, 1.5, 0.5].into_iter().enumerate() {
            let found = f64::from(normals.data()[axis * 512 + i]);
            assert!((found - half(axis, edge)).abs() < 1e-6, "{centre}: {axis} {found}");
        }
    }
}

#[test]
fn a_solid_sphere_has_its_volume() {
    // In general position, so that errors do not add up by symmetry.
    let sphere = file("unit_sphere.STL.gz").translated([0.031, 0.047, -0.023]);
    let exact = sphere.volume();
    let error = |samples: usize| {
        let new = MeshVoxeliser::new(16, 0.15, MeshField::Solid);
        let volume = voxels(MeshVoxeliser { supersampling: samples, ..new }, &sphere);
        (sum(&volume) * 0.15_f64.powi(3) - exact).abs() / exact
    };
    let errors = [1, 2, 4, 8].map(error);
    // The surface passes through about 4π / 0.15² ~ 560 of 1240 voxels. Independent errors of
    // ±1/2 voxel give a standard deviation of √(560 / 12) / 1240 ~ 0.55 %, and samples⁻² of that
    // for sub-voxels; three of them are allowed.
    for (error, samples) in errors.iter().zip([1.0, 2.0, 4.0, 8.0]) {
        assert!(*error < 0.0165 / (samples * samples), "{errors:?}");
    }
}

#[test]
fn the_distance_of_a_sphere() {
    let sphere = file("unit_sphere.STL.gz");
    let volume = voxels(MeshVoxeliser::new(12, 0.25, MeshField::Distance), &sphere);
    // The chords of the triangles lie up to 1 - cos(angle / 2) ~ 0.005 below the unit sphere.
    for (value, centre) in volume.data().iter().zip(centres(&volume)) {
        let expected = centre.norm() - 1.0;
        let error = f64::from(*value) - expected;
        assert!(error > -1e-6 && error < 0.006, "{centre}: {value} {expected}");
    }
    let truncated = MeshVoxeliser {
        truncation: Some(0.3),
        ..MeshVoxeliser::new(12, 0.25, MeshField::Distance)
    };
    for (short, long) in voxels(truncated, &sphere).data().iter().zip(volume.data()) {
        assert!((short - long.clamp(-0.3, 0.3)).abs() < 1e-6, "{short} {long}");
    }
}

#[test]
fn distances_match_trimesh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../formats/tests/reference/meshes.json");
    let reference: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for (name, expected) in reference["distance"].as_object().unwrap() {
        let mesh = file(name);
        let [low, high] = mesh.bounds().unwrap().map(V::from);
        let mesh = mesh.translated((-(low + high) / 2.0).into());
        let edge = expected["voxel_size"].as_f64().unwrap();
        let size = expected["size"].as_u64().unwrap() as usize;
        let volume = voxels(MeshVoxeliser::new(size, edge, MeshField::Distance), &mesh);
        let values = expected["values"].as_array().unwrap();
        assert!(values.iter().any(|v| v.as_f64().unwrap() < 0.0));
        for (found, expected) in volume.data().iter().zip(values) {
            let expected = expected.as_f64().unwrap();
            assert!((f64::from(*found) - expected).abs() < 1e-6 * edge * size as f64, "{name}");
        }
    }
}

/// Do a triangle and the cube about `centre` meet, by all 13 separating axes?
fn overlap(triangle: &[V; 3], centre: &V, half: f64) -> bool {
    let corners = triangle.map(|corner| corner - centre);
    let edges = [corners[1] - corners[0], corners[2] - corners[1], corners[0] - corners[2]];
    let units = [V::x(), V::y(), V::z()];
    let crossed = edges.iter().flat_map(|edge| units.map(|unit| unit.cross(edge)));
    let axes = units.into_iter().chain([edges[0].cross(&edges[1])]).chain(crossed);
    axes.into_iter().all(|axis| {
        let reach = half * axis.abs().sum();
        let along = corners.map(|corner| corner.dot(&axis));
        along.iter().any(|&a| a <= reach) && along.iter().any(|&a| a >= -reach)
    })
}

#[test]
fn surfaces_match_the_separating_axes() {
    let mut stream = Stream::new(11, "triangles", &[]);
    let mut random = |scale: f64| [(); 3].map(|()| (stream.uniform() - 0.5) * scale);
    for (count, scale) in [(1, 12.0), (5, 4.0), (40, 12.0)] {
        let vertices: Vec<[f64; 3]> = (0..3 * count).map(|_| random(scale)).collect();
        let triangles = (0..count).map(|i| [3 * i, 3 * i + 1, 3 * i + 2]).collect();
        let mesh = Mesh::new(vertices, triangles).unwrap();
        let volume = voxels(MeshVoxeliser::new(9, 1.0, MeshField::Surface), &mesh);
        let triangles = corners(&mesh);
        for (value, centre) in volume.data().iter().zip(centres(&volume)) {
            let expected = triangles.iter().any(|triangle| overlap(triangle, &centre, 0.5));
            assert_eq!(*value, f32::from(u8::from(expected)), "{centre}");
        }
        assert!(sum(&volume) > 5.0);
    }
}

/// The winding number by the solid angle of every triangle.
fn winding(triangles: &[[V; 3]], point: &V) -> f64 {
    let angle = |triangle: &[V; 3]| {
        let [a, b, c] = triangle.map(|corner| (corner - point).normalize());
        let over = 1.0 + a.dot(&b) + b.dot(&c) + c.dot(&a);
        2.0 * a.dot(&b.cross(&c)).atan2(over)
    };
    triangles.iter().map(angle).sum::<f64>() / (4.0 * PI)
}

#[test]
fn solids_match_the_winding_number() {
    let knot = knot();
    let open = together(&[torn(&knot, 900), cuboid([3.0, 2.0, 4.0], [4.2, 4.4, 0.7])]);
    let kept = knot.triangles().iter().enumerate().filter(|(i, _)| i % 3 != 0);
    let scattered =
        Mesh::new(knot.vertices().to_vec(), kept.map(|(_, triangle)| *triangle).collect()).unwrap();
    for (name, mesh) in [
        ("closed", knot.clone()),
        ("facing inwards", inside_out(&knot)),
        ("one facet short", torn(&knot, 1)),
        ("open", open),
        ("scattered", scattered),
        ("double", together(&[knot.clone(), inside_out(&knot)])),
        ("twice", together(&[knot.clone(), knot.clone()])),
    ] {
        let volume = voxels(MeshVoxeliser::new(14, 1.1, MeshField::Solid), &mesh);
        let triangles = corners(&mesh);
        let (mut clear, mut filled) = (0, 0);
        for (value, centre) in volume.data().iter().zip(centres(&volume)) {
            let winding = winding(&triangles, &centre).abs();
            // Far triangles count as dipoles: close to 1/2 the decision may differ.
            if (winding - 0.5).abs() > 0.02 {
                assert_eq!(*value, f32::from(u8::from(winding > 0.5)), "{name} {centre} {winding}");
                clear += 1;
                filled += usize::from(winding > 0.5);
            }
        }
        let all = volume.data().len();
        assert!(clear > all * 95 / 100, "{name}: {clear} of {all}");
        assert_eq!(filled > 100, name != "double", "{name}: {filled}");
    }
}

#[test]
fn parity_and_winding_number_agree_on_closed_meshes() {
    let solid = MeshVoxeliser::new(20, 0.75, MeshField::Solid);
    let parity = MeshVoxeliser { inside: Inside::Parity, ..solid };
    for mesh in [knot(), cuboid([6.1, 5.3, 7.7], [0.3, -0.2, 0.1]), inside_out(&knot())] {
        assert!(mesh.is_watertight());
        let filled = voxels(solid, &mesh);
        assert!(sum(&filled) > 100.0);
        assert_eq!(filled, voxels(parity, &mesh));
    }
    let cubes = [cuboid([6.0; 3], [0.1; 3]), cuboid([6.0; 3], [3.1; 3])];
    let union = voxels(solid, &together(&cubes));
    let difference = voxels(parity, &together(&cubes));
    let [a, b] = cubes.map(|cube| voxels(solid, &cube));
    for i in 0..a.data().len() {
        assert_eq!(union.data()[i], a.data()[i].max(b.data()[i]));
        assert_eq!(difference.data()[i], (a.data()[i] - b.data()[i]).abs());
    }
    let shell = together(&[cuboid([12.0; 3], [0.1; 3]), inside_out(&cuboid([6.0; 3], [0.1; 3]))]);
    assert_eq!(sum(&voxels(solid, &shell)), 16.0 * 16.0 * 16.0 - 8.0 * 8.0 * 8.0);
}

#[test]
fn rays_through_edges_and_vertices_count_once() {
    // The middle of the grid lies at a voxel centre: rays pass through the vertices, edges and
    // diagonals of an octahedron and of a cube standing on its corner.
    let axes = [[2.6, 0.0, 0.0], [0.0, 2.6, 0.0], [0.0, 0.0, 2.6]];
    let vertices = axes.into_iter().chain(axes.map(|v| v.map(|x| -x))).collect();
    let faces = vec![
        [0, 1, 2],
        [1, 3, 2],
        [3, 4, 2],
        [4, 0, 2],
        [1, 0, 5],
        [3, 1, 5],
        [4, 3, 5],
        [0, 4, 5],
    ];
    let octahedron = Mesh::new(vertices, faces).unwrap();
    assert!(octahedron.is_watertight());
    for inside in [Inside::Winding, Inside::Parity] {
        let new = MeshVoxeliser { inside, ..MeshVoxeliser::new(7, 1.0, MeshField::Solid) };
        let volume = voxels(new, &octahedron);
        for (value, centre) in volume.data().iter().zip(centres(&volume)) {
            let expected = centre.abs().sum() < 2.6;
            assert_eq!(*value, f32::from(u8::from(expected)), "{centre}");
        }
    }
}

#[test]
fn normals_of_a_closed_mesh_cancel_and_keep_the_area() {
    let knot = knot();
    let [size, edge] = [14.0, 1.1];
    let volume = voxels(MeshVoxeliser::new(14, edge, MeshField::Normals), &knot);
    assert_eq!((volume.channels(), volume.dims()), (3, [14; 3]));
    let voxel = |i: usize| V::from([0, 1, 2].map(|c| f64::from(volume.data()[c * 2744 + i])));
    let total: V = (0..2744).map(voxel).sum();
    assert!(total.norm() < 1e-4, "{total}");
    // The moment sum of x · n is 3 times the volume; a voxel's share stands at its centre, off by
    // half a voxel at most.
    let moment: f64 = centres(&volume).iter().enumerate().map(|(i, p)| p.dot(&voxel(i))).sum();
    let expected = 3.0 * knot.volume() / (edge * edge);
    assert!((moment - expected).abs() < 0.05 * expected, "{moment} {expected}");

    // A tilted triangle within the grid: every piece has its normal, and they sum to its area.
    let triangle =
        Mesh::new(vec![[-5.1, -3.2, 1.3], [4.4, -2.0, -3.3], [0.3, 5.2, 2.1]], vec![[0, 1, 2]])
            .unwrap();
    let volume = voxels(MeshVoxeliser::new(size as usize, edge, MeshField::Normals), &triangle);
    let normal = V::from(triangle.triangle_normals()[0]);
    let mut area = 0.0;
    for i in 0..2744 {
        let piece = V::from([0, 1, 2].map(|c| f64::from(volume.data()[c * 2744 + i])));
        assert!((piece - normal * piece.dot(&normal)).norm() < 1e-6);
        area += piece.dot(&normal) * edge * edge;
    }
    assert!((area - triangle.area()).abs() < 1e-5 * area);
}

#[test]
fn rotations_of_the_cube_commute_with_voxelising() {
    let closed = knot();
    let open = torn(&closed, 300);
    let scalar = "1x0".parse().unwrap();
    let vector = "1x1".parse().unwrap();
    for (field, supersampling, mesh) in [
        (MeshField::Surface, 1, &closed),
        (MeshField::Surface, 2, &open),
        (MeshField::Solid, 1, &closed),
        (MeshField::Solid, 3, &closed),
        (MeshField::Distance, 1, &closed),
        (MeshField::Normals, 1, &open),
    ] {
        for size in [9, 10] {
            let new = MeshVoxeliser { supersampling, ..MeshVoxeliser::new(size, 1.45, field) };
            let upright = voxels(new, mesh);
            let irreps = if field == MeshField::Normals { &vector } else { &scalar };
            for rotation in cube_group() {
                let turned = new.voxelise(mesh, &rotation).unwrap();
                let expected =
                    rotate(&upright, irreps, &rotation, Interpolation::Trilinear).unwrap();
                for (a, b) in turned.data().iter().zip(expected.data()) {
                    assert!((a - b).abs() < 1e-5, "{field:?} {size}: {a} {b}");
                }
            }
        }
    }
}

#[test]
fn parts_outside_the_grid_are_cut_off() {
    let cube = cuboid([100.0, 100.0, 4.0], [30.0, 0.0, 0.6]);
    let volume = voxels(MeshVoxeliser::new(8, 1.0, MeshField::Solid), &cube);
    for (value, centre) in volume.data().iter().zip(centres(&volume)) {
        let expected = centre.z > -1.4 && centre.z < 2.6;
        assert_eq!(*value, f32::from(u8::from(expected)), "{centre}");
    }
    let far = cuboid([1.0; 3], [1e6, 0.0, 0.0]);
    for field in [MeshField::Surface, MeshField::Solid, MeshField::Normals] {
        assert_eq!(sum(&voxels(MeshVoxeliser::new(8, 1.0, field), &far)), 0.0);
    }
}

#[test]
fn wrong_parameters_are_refused() {
    let cube = cuboid([2.0; 3], [0.0; 3]);
    let solid = MeshVoxeliser::new(8, 1.0, MeshField::Solid);
    let distance = MeshVoxeliser { field: MeshField::Distance, ..solid };
    let refused = |voxeliser: MeshVoxeliser, mesh: &Mesh| {
        voxeliser.voxelise(mesh, &Rotation::identity()).unwrap_err()
    };
    for bad in [
        MeshVoxeliser { size: 0, ..solid },
        MeshVoxeliser { size: 1 << 20, ..solid },
        MeshVoxeliser { supersampling: 0, ..solid },
        MeshVoxeliser { supersampling: 1 << 20, ..solid },
        MeshVoxeliser { supersampling: usize::MAX, ..solid },
    ] {
        assert!(matches!(refused(bad, &cube), VolumeError::Size { .. }), "{bad:?}");
    }
    for (bad, field) in [
        (MeshVoxeliser { voxel_size: 0.0, ..solid }, "voxel_size"),
        (MeshVoxeliser { supersampling: 2, ..distance }, "supersampling"),
        (MeshVoxeliser { truncation: Some(0.0), ..distance }, "truncation"),
        (MeshVoxeliser { truncation: Some(f64::NAN), ..distance }, "truncation"),
    ] {
        match refused(bad, &cube) {
            VolumeError::Parameter { field: found, .. } => assert_eq!(found, field),
            other => panic!("{other}"),
        }
    }
    let error = refused(distance, &Mesh::default());
    assert!(matches!(error, VolumeError::Parameter { field: "mesh", .. }), "{error}");
    assert_eq!(sum(&voxels(solid, &Mesh::default())), 0.0);
    let huge = cube.scaled(1e30);
    let tiny = MeshVoxeliser { voxel_size: 1e-30, ..solid };
    assert!(matches!(refused(tiny, &huge), VolumeError::Coordinate { .. }));
}

#[test]
fn meshes_without_shape_do_no_harm() {
    let point = Mesh::new(vec![[0.5, 0.5, 0.5]], vec![[0; 3]]).unwrap();
    let line = Mesh::new(vec![[-3.0; 3], [0.0; 3], [3.0; 3]], vec![[0, 1, 2], [2, 2, 0]]).unwrap();
    let huge = cuboid([1e30; 3], [0.0; 3]);
    for mesh in [&point, &line, &huge] {
        for field in [MeshField::Surface, MeshField::Solid, MeshField::Normals, MeshField::Distance]
        {
            for inside in [Inside::Winding, Inside::Parity] {
                let new = MeshVoxeliser { inside, ..MeshVoxeliser::new(6, 1.0, field) };
                // A value or an error, but no panic.
                let _ = new.voxelise(mesh, &Rotation::identity());
            }
        }
    }
    let distance = voxels(MeshVoxeliser::new(6, 1.0, MeshField::Distance), &point);
    for (value, centre) in distance.data().iter().zip(centres(&distance)) {
        assert!((f64::from(*value) - (centre - V::repeat(0.5)).norm()).abs() < 1e-6);
    }
    assert_eq!(sum(&voxels(MeshVoxeliser::new(6, 1.0, MeshField::Solid), &huge)), 216.0);
}

#[test]
fn settings_are_read_from_text() {
    let text = r#"{"size": 8, "voxel_size": 0.5, "field": "solid"}"#;
    let read: MeshVoxeliser = serde_json::from_str(text).unwrap();
    assert_eq!(read, MeshVoxeliser::new(8, 0.5, MeshField::Solid));
    let all = MeshVoxeliser {
        supersampling: 3,
        inside: Inside::Parity,
        truncation: Some(1.5),
        ..MeshVoxeliser::new(8, 0.5, MeshField::Distance)
    };
    let text = serde_json::to_string(&all).unwrap();
    assert_eq!(serde_json::from_str::<MeshVoxeliser>(&text).unwrap(), all);
    assert!(serde_json::from_str::<MeshVoxeliser>(&text.replace("inside", "outside")).is_err());
}

#[test]
fn coordinates_near_the_largest_number_are_refused_and_large_ones_voxelised() {
    let triangle = |x: f64| {
        Mesh::new(vec![[-x, -x, 0.3 * x], [x, -x, 0.2 * x], [0.1 * x, x, -x]], vec![[0, 1, 2]])
    };
    for x in [1e308, 1e31, f64::INFINITY, f64::NAN] {
        assert!(matches!(triangle(x), Err(VolumeError::Coordinate { what: "vertices", .. })));
    }
    for field in [MeshField::Surface, MeshField::Solid, MeshField::Distance, MeshField::Normals] {
        for (x, voxel_size) in [(1e30, 1.0), (1e30, 1e29), (1e-30, 1e-30), (1e-300, 1.0)] {
            let voxeliser = MeshVoxeliser::new(6, voxel_size, field);
            let volume = voxeliser.voxelise(&triangle(x).unwrap(), &Rotation::identity());
            assert!(volume.unwrap().data().iter().all(|value| value.is_finite()));
        }
        // In voxels, beyond the range again.
        let fine = MeshVoxeliser::new(6, 1e-10, field);
        let error = fine.voxelise(&triangle(1e30).unwrap(), &Rotation::identity()).unwrap_err();
        assert!(matches!(error, VolumeError::Coordinate { .. }), "{error}");
    }
}
