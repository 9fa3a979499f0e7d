//! Text form and limits of irreps.

use nalgebra::Matrix3;
use steer3d_so3::irreps::MULTIPLICITY_MAX;
use steer3d_so3::{Irrep, Irreps, IrrepsError, Parity, RotationError};

fn parse(text: &str) -> Result<Irreps, IrrepsError> {
    text.parse()
}

#[test]
fn text_forms_are_canonical() {
    for (text, canonical) in [
        ("16x0+8x1+4x2", "16x0+8x1+4x2"),
        (" 2 x 0e + 1o ", "2x0e+1x1o"),
        ("3", "1x3"),
        ("007x01", "7x1"),
        ("1+1", "1x1+1x1"),
        ("65536x0", "65536x0"),
    ] {
        assert_eq!(parse(text).unwrap().to_string(), canonical);
    }
}

#[test]
fn mistakes_are_located() {
    for (text, expected_column, part) in [
        ("", 1, "found the end"),
        ("   ", 4, "found the end"),
        ("16x0+", 6, "found the end"),
        ("16x0++8x1", 6, "found '+'"),
        ("16x", 4, "found the end"),
        ("x1", 1, "found 'x'"),
        ("16y0", 3, "found 'y'"),
        ("16x-1", 4, "found '-'"),
        ("-1x1", 1, "found '-'"),
        ("1x1p", 4, "found 'p'"),
        ("1x1 o", 5, "found 'o'"),
        ("1.5x1", 2, "found '.'"),
        ("1x1,1x2", 4, "found ','"),
        ("1x0+é", 5, "found 'é'"),
        ("é+é", 1, "found 'é'"),
        ("1x21", 3, "l = 21 is above"),
        ("21", 1, "l = 21 is above"),
        ("0x1", 1, "multiplicity 0"),
        ("1x1+65537x0", 5, "multiplicity 65537"),
        ("1x99999999999999999999999", 3, "is too large"),
        ("1x0+1x1o", 8, "expected no parity, as in the first term, found 'o'"),
        ("1x0e+1x1+1x2o", 9, "expected e or o, as in the first term, found '+'"),
        ("1x0e+1x1", 9, "expected e or o, as in the first term, found the end"),
    ] {
        let error = parse(text).unwrap_err();
        let IrrepsError::Parse { column, ref problem, .. } = error else {
            panic!("{text}: {error:?}");
        };
        assert_eq!(column, expected_column, "{error}");
        assert!(problem.contains(part), "{error}");
    }
    let caret = parse("16x0+8y1").unwrap_err().caret().unwrap();
    assert_eq!(caret, "16x0+8y1\n      ^");
}

#[test]
fn sums_beyond_the_limits_are_refused() {
    assert_eq!(Irreps::new([]), Err(IrrepsError::Empty));
    let mixed = Irreps::new([(1, Irrep::so3(0)), (1, Irrep::o3(1, Parity::Odd))]);
    assert_eq!(mixed, Err(IrrepsError::MixedParity));
    let many = format!("{MULTIPLICITY_MAX}x20");
    assert_eq!(parse(&many), Err(IrrepsError::TooLarge));
    let zero = Irreps::new([(0, Irrep::so3(2))]);
    assert_eq!(zero, Err(IrrepsError::Multiplicity { mul: 0, l: 2 }));
    let huge = Irreps::new([(1, Irrep::so3(usize::MAX))]).unwrap_err();
    assert!(matches!(huge, IrrepsError::Degree(_)));
    assert!(parse("65536x0+65536x0").unwrap().sorted().is_err());
    let json: Result<Irreps, _> = serde_json::from_str("\"1x0+?\"");
    assert!(json.unwrap_err().to_string().contains("column 5"));
    assert!(serde_json::from_str::<Irreps>("7").is_err());
}

#[test]
fn layout_is_multiplicity_major() {
    let irreps = parse("2x0+3x1+1x2").unwrap();
    let blocks: Vec<_> = irreps.blocks().map(|b| (b.mul, b.irrep.l, b.offset)).collect();
    assert_eq!(blocks, [(2, 0, 0), (3, 1, 2), (1, 2, 11)]);
    assert_eq!((irreps.dim(), irreps.num_fields(), irreps.lmax()), (16, 6, 2));
    assert_eq!(parse("1x1+2x0+3x1").unwrap().sorted().unwrap(), parse("2x0+4x1").unwrap());
}

#[test]
fn reflections_need_parity() {
    let mirror = Matrix3::from_diagonal(&[-1.0, 1.0, 1.0].into());
    let vector = parse("1x1o").unwrap().matrix(&mirror).unwrap();
    assert_eq!(vector, nalgebra::DMatrix::from_diagonal(&vec![-1.0, 1.0, 1.0].into()));
    let axial = parse("1x1e").unwrap().matrix(&mirror).unwrap();
    assert_eq!(axial, -vector);
    assert_eq!(parse("2x0+1x1").unwrap().matrix(&mirror), Err(RotationError::NoParity { l: 0 }));
    let pseudoscalar = Irrep::o3(0, Parity::Odd).matrix(&mirror).unwrap();
    assert_eq!(pseudoscalar[(0, 0)], -1.0);
}
