//! The readers of meshes: trimesh's values, variants of the formats, damaged files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use steer3d_formats::{Fault, FileContents, Format, FormatError, Place, read, read_as};
use steer3d_so3::{Rotation, Stream, random_rotations};
use steer3d_volume::Mesh;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn mesh(source: FileContents) -> Mesh {
    match source {
        FileContents::Mesh(mesh) => mesh,
        other => panic!("{other:?} is not a mesh"),
    }
}

fn file(name: &str) -> Result<Mesh, FormatError> {
    read(&folder().join("meshes").join(name)).map(mesh)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(folder().join("meshes").join(name)).unwrap()
}

fn parse(format: Format, bytes: impl AsRef<[u8]>) -> Result<Mesh, Fault> {
    read_as(bytes.as_ref(), format).map(mesh)
}

/// Asserts that two numbers differ by at most `tolerance` of the larger.
#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64) {
    let scale = found.abs().max(expected.abs()).max(1e-3);
    assert!((found - expected).abs() <= tolerance * scale, "{found} instead of {expected}");
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn coordinates_beyond_all_arithmetic_are_refused_with_their_line() {
    for (format, text) in [
        (Format::Obj, "v 0 0 0\nv 1e308 0 0\nv 0 1 0\nf 1 2 3\n"),
        (Format::Off, "OFF 3 1 0\n-1.7e308 0 0\n0 1 0\n0 0 1\n3 0 1 2\n"),
    ] {
        let fault = parse(format, text).unwrap_err();
        assert!(fault.to_string().starts_with("line 2: expected finite coordinates from -1e30"));
    }
}

#[test]
fn values_match_trimesh() {
    let reference = std::fs::read(folder().join("reference/meshes.json")).unwrap();
    let reference: Value = serde_json::from_slice(&reference).unwrap();
    let meshes = reference["meshes"].as_object().unwrap();
    assert_eq!(meshes.len(), 19);
    for (name, expected) in meshes {
        let mesh = file(name).unwrap_or_else(|error| panic!("{error}"));
        let merged = mesh.merged();
        let used: BTreeSet<u32> = merged.triangles().iter().flatten().copied().collect();
        assert_eq!(used.len() as u64, expected["vertices"].as_u64().unwrap(), "{name}");
        assert_eq!(mesh.triangles().len() as u64, expected["triangles"].as_u64().unwrap());
        assert_eq!(merged.is_watertight(), expected["watertight"].as_bool().unwrap(), "{name}");
        close(mesh.area(), expected["area"].as_f64().unwrap(), 1e-12);
        if let Some(volume) = expected["volume"].as_f64() {
            close(mesh.volume(), volume, 1e-12);
        }
        let bounds = mesh.bounds().unwrap();
        for (side, values) in bounds.iter().zip(expected["bounds"].as_array().unwrap()) {
            assert_eq!(side.as_slice(), numbers(values), "{name}");
        }
        let size = bounds.iter().flatten().fold(0.0_f64, |size, x| size.max(x.abs()));
        for (found, expected) in mesh.centroid().iter().zip(numbers(&expected["centroid"])) {
            assert!((found - expected).abs() < 1e-12 * size, "{name}: {found} and {expected}");
        }
    }
}

#[test]
fn broken_files_say_where() {
    let fault = |name| match file(name) {
        Err(FormatError::Malformed { fault, .. }) => *fault,
        other => panic!("{name}: {other:?}"),
    };
    let expected = "the numbers of vertices, faces and edges";
    assert_eq!(fault("invalid.off"), Fault::new(Place::Line(2), expected, "the end of the line"));
    let expected = "a face of at least 3 corners";
    assert_eq!(fault("notenoughindices.obj"), Fault::new(Place::Line(9), expected, "2 corners"));
    let error = file("invalid.off").unwrap_err().to_string();
    assert!(
        error.ends_with(
            "invalid.off: OFF: line 2: expected the numbers of vertices, faces \
                             and edges, found the end of the line"
        ),
        "{error}"
    );
}

#[test]
fn empty_meshes_are_read() {
    for name in ["ply_empty_bin.ply", "stl_empty_ascii.stl"] {
        let mesh = file(name).unwrap();
        assert_eq!(mesh, Mesh::default(), "{name}");
        assert_eq!((mesh.area(), mesh.volume(), mesh.centroid()), (0.0, 0.0, [0.0; 3]));
        assert!(!mesh.is_watertight());
        assert_eq!(mesh.bounds(), None);
    }
}

#[test]
fn content_tells_the_format() {
    let name = Path::new("nameless");
    let detect = |bytes: &[u8]| Format::detect(bytes, name);
    for (file, format) in [
        ("Cube.off", Format::Off),
        ("comments.off", Format::Off),
        ("whitespace.off", Format::Off),
        ("box.obj", Format::Obj),
        ("nancolor.obj", Format::Obj),
        ("notenoughindices.obj", Format::Obj),
        ("unit_cube.STL", Format::Stl),
        ("stl_empty_ascii.stl", Format::Stl),
        ("two_objects_mixed_case_names.stl", Format::Stl),
        ("tet.ply", Format::Ply),
        ("cube_binary_header_with_RN_newline.ply", Format::Ply),
    ] {
        assert_eq!(detect(&bytes(file)), Some(format), "{file}");
    }
    for (text, format) in [
        ("COFF\n3 1 0\n", Some(Format::Off)),
        ("STCNOFF 3 1 0\n", Some(Format::Off)),
        ("OFFICE\n", None),
        ("\n  solid a name\n\n facet normal 0 0 1\n", Some(Format::Stl)),
        // The titles of a molfile.
        ("solid\n  program\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n", Some(Format::Sdf)),
        ("o\n  program\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n", Some(Format::Sdf)),
        ("# comment\r\nvn 0 0 1\r\nv 1 2 3\r\n", Some(Format::Obj)),
        ("v 1 2\n", None),
        ("v one two three\n", None),
        // A vanadium atom.
        ("1\n\nV 1.0 2.0 3.0\n", Some(Format::Xyz)),
        ("ply\r\nformat ascii 1.0\r\n", Some(Format::Ply)),
        ("", None),
    ] {
        assert_eq!(detect(text.as_bytes()), format, "{text:?}");
    }
    assert_eq!(detect(&[0; 84]), Some(Format::Stl));
    assert_eq!(detect(&[0; 85]), None);
}

const SQUARE: &str = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n";

fn square() -> Mesh {
    let corners = vec![[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]];
    Mesh::new(corners, vec![[0, 1, 2], [0, 2, 3]]).unwrap()
}

#[test]
fn variants_of_off() {
    let coloured = SQUARE.replace(" 0\n", " 0 9 8 7 255\n");
    for text in [
        format!("OFF\n4 1 0\n{SQUARE}4 0 1 2 3\n"),
        format!("OFF 4 1 0\n{SQUARE}4 0 1 2 3"),
        format!("OFF4 1 0\r\n{}4 0 1 2 3\r\n\r\n", SQUARE.replace('\n', "\r\n")),
        format!("# no\n\n OFF # yes\n#\n4 1 0\n\n{SQUARE}\n#\n4 0 1 2 3 # a face\n# end\n"),
        format!("COFF\n4 1 4\n{coloured}4 0 1 2 3 0.5 0.5 0.5\n"),
        format!("STCNOFF\n4 1 4\n{coloured}4 0 1 2 3\n"),
    ] {
        assert_eq!(parse(Format::Off, &text), Ok(square()), "{text}");
    }
    for (text, place, found) in [
        ("", Place::Whole, "the end of the file"),
        ("OFFF\n", Place::Line(1), "\"OFFF\""),
        ("4OFF\n1 0 0\n", Place::Line(1), "\"4OFF\""),
        ("OFF BINARY\n\0\0\0\x08", Place::Line(1), "a binary one"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n", Place::Whole, "the end of the file"),
        ("OFF\n18446744073709551615 1 0\n0 0 0\n", Place::Whole, "the end of the file"),
        ("OFF\n18446744073709551616 1 0\n", Place::Line(2), "\"18446744073709551616\""),
        ("OFF\n1 0 0\n0 0 x\n", Place::Line(3), "\"x\""),
        ("OFF\n1 0 0\n0 0\n", Place::Line(3), "the end of the line"),
        ("OFF\n1 0 0\n0 nan 0\n", Place::Line(3), "NaN"),
        ("OFF\n1 0 0\n0 1e999 0\n", Place::Line(3), "inf"),
        ("OFF\n1 1 0\n0 0 0\n3 0 0 1\n", Place::Line(4), "vertex 1"),
        ("OFF\n1 1 0\n0 0 0\n3 0 0\n", Place::Line(4), "2 before the end of the line"),
        ("OFF\n1 1 0\n0 0 0\n3 0 0 -1\n", Place::Line(4), "\"-1\""),
        ("OFF\n1 1 0\n0 0 0\n99999999999 0\n", Place::Line(4), "1 before the end of the line"),
        ("OFF\n1 1 0\n0 0 0\n2 0 0\n", Place::Line(4), "2 corners"),
        ("OFF\n1 0 0\n0 0 0\n3 0 0 0\n", Place::Line(4), "\"3 0 0 0\""),
    ] {
        let fault = parse(Format::Off, text).unwrap_err();
        assert_eq!((fault.place, fault.found.as_str()), (place, found), "{text:?}: {fault}");
    }
}

#[test]
fn variants_of_obj() {
    let vertices: String = SQUARE.lines().map(|line| format!("v {line}\n")).collect();
    for faces in [
        "f 1 2 3 4",
        "f 1/1 2/2 3/1 4/2",
        "f 1//1 2//1 3//1 4//1",
        "f 1/1/1 2/2/1 3/1/1 4/2/1\r\n",
        "f -4 -3 -2 -1",
        "o one\ng a b\nf 1 2 3\no two\ng\nusemtl x y\ns off\nf 1 3 4",
        "f 1 2 \\\n3 4 # \\\n#f 1 2 9",
        "l 1 2\np 1\nf 1 2 3 4",
    ] {
        let text = format!("# C:\\\nmtllib a b.mtl\n{vertices}vt 0 0\nvn 0 0 1\n{faces}");
        assert_eq!(parse(Format::Obj, &text), Ok(square()), "{text}");
    }
    for (text, line, found) in [
        ("v 1 2", 1, "the end of the line"),
        ("v 1 2 x", 1, "\"x\""),
        ("v 1 2 inf", 1, "inf"),
        ("\nv 0 0 0\nf 1 1 2", 3, "\"2\""),
        ("v 0 0 0\nf 1 1 0", 2, "\"0\""),
        ("v 0 0 0\nf 1 1 -2", 2, "\"-2\""),
        ("v 0 0 0\nf 1 1 1/x", 2, "\"1/x\""),
        ("v 0 0 0\nf 1 1 1/1/1/1", 2, "\"1/1/1/1\""),
        ("v 0 0 0\nf 1 1 9223372036854775808", 2, "\"9223372036854775808\""),
        ("v 0 0 0\nf 1 1 -9223372036854775808", 2, "\"-9223372036854775808\""),
        ("v 0 0 0\nf \\\n1 \\\n1", 2, "2 corners"),
        ("v 0 0 0\nf", 2, "0 corners"),
        ("v 0 0 0\ncurv 0 1 1 2", 2, "\"curv\""),
    ] {
        let fault = parse(Format::Obj, text).unwrap_err();
        assert_eq!((fault.place, fault.found.as_str()), (Place::Line(line), found), "{text:?}");
    }
}

fn binary_stl(header: &str, facets: &[[[f32; 3]; 3]]) -> Vec<u8> {
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(80, b' ');
    bytes.extend((facets.len() as u32).to_le_bytes());
    for facet in facets {
        bytes.extend([0; 12]);
        bytes.extend(facet.iter().flatten().flat_map(|x| x.to_le_bytes()));
        bytes.extend([0; 2]);
    }
    bytes
}

#[test]
fn variants_of_stl() {
    let facet = |corners: &str| {
        let corners: String = corners.split(", ").map(|c| format!("vertex {c}\n")).collect();
        format!("facet normal -nan 0 0\nouter loop\n{corners}endloop\nendfacet\n")
    };
    let facets = [facet("0 0 0, 1 0 0, 1 1 0"), facet("-0 0 0, 1.0 1 0, 0 1 0")];
    let one = format!("solid a b\n{}{}endsolid a b\n", facets[0], facets[1]);
    let two = format!("solid\n{}endsolid\n\nsolid\n{}endsolid", facets[0], facets[1]);
    let binary = binary_stl(
        "solid not ascii",
        &[
            [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]],
            [[0.0, -0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]],
        ],
    );
    for bytes in [one.as_bytes(), one.to_uppercase().as_bytes(), two.as_bytes(), &binary] {
        assert_eq!(parse(Format::Stl, bytes), Ok(square()));
    }

    let long = [binary.as_slice(), b"!"].concat();
    let nan = binary_stl("", &[[[0.0; 3], [0.0, f32::NAN, 0.0], [0.0; 3]]]);
    let unfinished = facets[0].replace("endloop\n", "");
    for (bytes, place, found) in [
        (b"".as_slice(), Place::Whole, "0 bytes"),
        (&binary[..83], Place::Whole, "83 bytes"),
        (&binary[..183], Place::Byte(80), "183 bytes"),
        (&long, Place::Byte(80), "185 bytes"),
        (&nan, Place::Byte(84), "NaN"),
        (b"solid a\n", Place::Whole, "the end of the file"),
        (b"solid\nfacet\nvertex 1 2 3\n", Place::Line(3), "\"vertex 1 2 3\""),
        (b"solid\nfacet\nouter loop\nvertex 1 2\n", Place::Line(4), "the end of the line"),
        (format!("solid\n{unfinished}").as_bytes(), Place::Line(7), "\"endfacet\""),
        (b"solid\nendsolid\nfacet\n", Place::Line(3), "\"facet\""),
    ] {
        let fault = parse(Format::Stl, bytes).unwrap_err();
        assert_eq!((fault.place, fault.found.as_str()), (place, found), "{fault}");
    }
}

/// A header of PLY for the square.
fn ply(format: &str, properties: &str, faces: &str) -> String {
    format!(
        "ply\nformat {format} 1.0\ncomment vertex\nelement vertex 4\n{properties}\
         element tail 2\nproperty list uchar short rest\nelement none 3\n\
         element face 1\n{faces}\nend_header\n"
    )
}

#[test]
fn variants_of_ply() {
    const INDICES: &str = "property list uchar int vertex_indices";
    let plain = "property float x\nproperty float32 y\nproperty double z\n";
    let text = ply("ascii", plain, INDICES) + SQUARE + "2 5 6\n0\n4 0 1 2 3\n";
    assert_eq!(parse(Format::Ply, &text), Ok(square()));
    assert_eq!(parse(Format::Ply, text.replace('\n', "\r\n")), Ok(square()));

    // Another order, other types, and properties to skip.
    let other = "property uchar red\nproperty int16 z\nproperty list uchar float w\n\
                 property int x\nproperty float64 y\n";
    let faces = "property uint8 flag\nproperty list uint uint8 vertex_index";
    for little in [true, false] {
        let mut bytes = Vec::new();
        let order = |bytes: &mut Vec<u8>, mut value: Vec<u8>| {
            if !little {
                value.reverse();
            }
            bytes.extend(value);
        };
        for &[x, y, z] in square().vertices() {
            bytes.push(255);
            order(&mut bytes, (z as i16).to_le_bytes().to_vec());
            bytes.push(2);
            order(&mut bytes, 7.0_f32.to_le_bytes().to_vec());
            order(&mut bytes, 8.0_f32.to_le_bytes().to_vec());
            order(&mut bytes, (x as i32).to_le_bytes().to_vec());
            order(&mut bytes, y.to_le_bytes().to_vec());
        }
        bytes.extend([1, 9, 9, 0]);
        bytes.push(200);
        order(&mut bytes, 4_u32.to_le_bytes().to_vec());
        bytes.extend([0, 1, 2, 3]);
        let format = if little { "binary_little_endian" } else { "binary_big_endian" };
        let header = ply(format, other, faces).into_bytes();
        let whole = [header.as_slice(), &bytes].concat();
        assert_eq!(parse(Format::Ply, &whole), Ok(square()), "{format}");
        assert_eq!(parse(Format::Ply, [whole.as_slice(), b"\n"].concat()), Ok(square()));
        let fault = parse(Format::Ply, &whole[..whole.len() - 1]).unwrap_err();
        assert_eq!(fault.place, Place::Byte(whole.len() as u64 - 1), "{fault}");
        let fault = parse(Format::Ply, [whole.as_slice(), b"!"].concat()).unwrap_err();
        assert_eq!(fault.place, Place::Byte(whole.len() as u64), "{fault}");
    }

    let body = format!("{SQUARE}0\n0\n");
    for (header, body, place, found) in [
        ("plx\n".to_owned(), "", Place::Line(1), "\"plx\""),
        ("ply\nformat ascii 1.0\n".to_owned(), "", Place::Whole, "the end of the file"),
        (ply("ascii_", plain, INDICES), "", Place::Line(2), "\"ascii_\""),
        (ply("ascii", plain, "property float q"), &body, Place::Line(11), "\"q\""),
        (ply("ascii", "property float x\n", INDICES), &body, Place::Line(4), "\"x\""),
        (ply("ascii", "property list int int x\n", INDICES), &body, Place::Line(4), "\"x\""),
        (
            ply("ascii", plain, INDICES).replace("face", "edge"),
            &body,
            Place::Whole,
            "the elements \"vertex tail none edge\"",
        ),
        (
            ply("ascii", plain, INDICES).replace("vertex 4", "vertex 99999"),
            &body,
            Place::Line(14),
            "28 bytes",
        ),
        (
            ply("ascii", plain, INDICES).replace("vertex 4", &format!("vertex {}", usize::MAX)),
            &body,
            Place::Line(14),
            "28 bytes",
        ),
        (ply("ascii", plain, INDICES), &format!("{body}3 0 1 4"), Place::Line(20), "vertex 4"),
        (ply("ascii", plain, INDICES), &format!("{body}3 0 1 1.5"), Place::Line(20), "1.5"),
        (ply("ascii", plain, INDICES), &format!("{body}-3 0 1 2"), Place::Line(20), "-3"),
        (ply("ascii", plain, INDICES), &format!("{body}2 0 1"), Place::Line(20), "2 corners"),
        (
            ply("ascii", plain, INDICES),
            &format!("{body}3 0 1"),
            Place::Line(20),
            "the end of the file",
        ),
        (
            ply("ascii", plain, INDICES),
            &format!("{body}3 0 1 2\n\n7"),
            Place::Line(22),
            "1 more bytes",
        ),
        (ply("ascii", plain, INDICES), &SQUARE.replacen('1', "one", 1), Place::Line(15), "\"one\""),
        (ply("ascii", plain, INDICES), &SQUARE.replacen('1', "inf", 1), Place::Line(15), "inf"),
    ] {
        let fault = parse(Format::Ply, header.clone() + body).unwrap_err();
        assert_eq!((fault.place, fault.found.as_str()), (place, found), "{header}{body}: {fault}");
    }
    // A list that claims four billion numbers of one byte.
    let header = ply("binary_little_endian", plain, "property list uint char vertex_indices");
    let body = [[0; 66].as_slice(), &[255; 4]].concat();
    let fault = parse(Format::Ply, [header.as_bytes(), &body].concat()).unwrap_err();
    assert_eq!(fault.place, Place::Byte((header.len() + 70) as u64), "{fault}");
    // A thousand million items of nothing.
    let header = header.replace("none 3", "none 1000000000000");
    let faces = [[0; 66].as_slice(), &[3, 0, 0, 0, 0, 1, 2]].concat();
    let mesh = parse(Format::Ply, [header.as_bytes(), &faces].concat()).unwrap();
    assert_eq!(mesh.triangles(), [[0, 1, 2]]);
}

#[test]
fn truncated_and_mutated_files_never_panic() {
    let files = [
        ("comments.off", Format::Off),
        ("whitespace.off", Format::Off),
        ("box.obj", Format::Obj),
        ("nancolor.obj", Format::Obj),
        ("unit_cube.STL", Format::Stl),
        ("triangle_with_two_solids.stl", Format::Stl),
        ("tet.ply", Format::Ply),
        ("cube_blender_uv.ply", Format::Ply),
        ("cube_binary_header_with_RN_newline.ply", Format::Ply),
    ];
    for (i, (name, format)) in files.into_iter().enumerate() {
        let whole = bytes(name);
        let intact = parse(format, &whole).unwrap();
        for length in 0..whole.len() {
            // Only white space, or digits that the last number can do without, may be missing.
            if let Ok(mesh) = parse(format, &whole[..length]) {
                let left = whole.len() - length;
                assert!(left < 40 || mesh.triangles().len() < intact.triangles().len(), "{name}");
            }
        }
        let mut stream = Stream::new(7, "mesh mutants", &[i as u64]);
        let mut refused = 0;
        for _ in 0..3000 {
            let mut mutant = whole.clone();
            for _ in 0..=stream.below(4) {
                let at = stream.below(mutant.len());
                match stream.below(3) {
                    0 => mutant[at] = stream.below(256) as u8,
                    1 => drop(mutant.remove(at)),
                    _ => mutant.insert(at, b"0123456789-.e \n\\/#\xff\0"[stream.below(20)]),
                }
            }
            refused += usize::from(parse(format, &mutant).is_err());
        }
        assert!(refused > 100, "{name}: {refused} of 3000 refused");
    }
}

#[test]
fn watertightness_needs_each_edge_once_each_way() {
    let cube = file("Cube.off").unwrap();
    assert!(cube.is_watertight());
    let with = |change: &dyn Fn(&mut Vec<[u32; 3]>)| {
        let mut triangles = cube.triangles().to_vec();
        change(&mut triangles);
        Mesh::new(cube.vertices().to_vec(), triangles).unwrap()
    };
    assert!(!with(&|t| t.truncate(11)).is_watertight());
    assert!(!with(&|t| t[3].reverse()).is_watertight());
    assert!(!with(&|t| t.push(t[0])).is_watertight());
    assert!(with(&|t| t.push([1, 1, 5])).is_watertight());
    let inside_out = with(&|t| t.iter_mut().for_each(|t| t.reverse()));
    assert!(inside_out.is_watertight());
    assert_eq!(inside_out.volume(), -1.0);
}

#[test]
fn meshes_move_turn_and_scale() {
    let mesh = file("quadknot.obj.gz").unwrap();
    let rotation = &random_rotations(3, 1)[0];
    let turned = mesh.rotated(rotation);
    close(turned.area(), mesh.area(), 1e-12);
    close(turned.volume(), mesh.volume(), 1e-12);
    for (a, b) in
        turned.centred().vertices().iter().zip(mesh.centred().rotated(rotation).vertices())
    {
        assert!((0..3).all(|axis| (a[axis] - b[axis]).abs() < 1e-11), "{a:?} {b:?}");
    }
    assert!(mesh.centred().centroid().iter().all(|x| x.abs() < 1e-12));
    let ball = mesh.centred().scaled_to(2.0);
    let norm = |v: &[f64; 3]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    close(ball.vertices().iter().map(norm).fold(0.0, f64::max), 2.0, 1e-15);
    let [low, high] = mesh.fitted(3.0).bounds().unwrap();
    let extents = [0, 1, 2].map(|axis| high[axis] - low[axis]);
    close(extents.iter().copied().fold(0.0, f64::max), 3.0, 1e-15);
    assert!((0..3).all(|axis| (low[axis] + high[axis]).abs() < 1e-14));
    // Normals turn with the mesh.
    let pairs = [
        (turned.triangle_normals(), mesh.triangle_normals()),
        (turned.vertex_normals(), mesh.vertex_normals()),
    ];
    for (turned, normals) in pairs {
        assert_eq!(turned.len(), normals.len());
        for (a, b) in turned.iter().zip(normals) {
            let b = rotation * nalgebra::Vector3::from(b);
            assert!((nalgebra::Vector3::from(*a) - b).norm() < 1e-10);
            close(b.norm(), 1.0, 1e-14);
        }
    }
    let flat = Mesh::new(vec![[1.0; 3]], vec![[0; 3]]).unwrap();
    assert_eq!(flat.triangle_normals(), [[0.0; 3]]);
    assert_eq!(flat.vertex_normals(), [[0.0; 3]]);
    assert_eq!(flat.fitted(2.0).vertices(), [[0.0; 3]]);
    assert_eq!(flat.centred().scaled_to(2.0).vertices(), [[0.0; 3]]);
    assert_eq!(flat.rotated(&Rotation::identity()), flat);
}

#[test]
fn merging_counts_minus_zero_as_zero() {
    let vertices = vec![[0.0, 1.0, 2.0], [-0.0, 1.0, 2.0], [0.0, 1.0, 2.0000000000000004]];
    let merged = Mesh::new(vertices, vec![[0, 1, 2], [2, 1, 1]]).unwrap().merged();
    assert_eq!(merged.vertices().len(), 2);
    assert_eq!(merged.triangles(), [[0, 0, 1], [1, 0, 0]]);
}
