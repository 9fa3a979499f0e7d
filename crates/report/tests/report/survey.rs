//! The tables of a survey of equivariance errors.

use steer3d_eval::equivariance::{Subject, Survey, SurveyConfig, survey};
use steer3d_kernels::Family;
use steer3d_report::{survey_csv, survey_markdown, write_survey};

fn small() -> SurveyConfig {
    SurveyConfig {
        irreps: "2x0+1x1".parse().unwrap(),
        sizes: vec![3],
        families: vec![Family::jets(2)],
        widths: vec![1.0, 2.0],
        size: 9,
        rotations: 1,
        seeds: 1,
        centre_fields: 1,
        ..SurveyConfig::default()
    }
}

#[test]
fn a_survey_is_written_as_tables_and_plots() {
    let found = survey(&small(), &|_, _, _| ()).unwrap();
    assert_eq!(found.kernels.len(), 1);
    assert_eq!(found.measured.len(), Subject::all().len());
    assert!(found.measured.iter().all(|row| row.cube < 1e-5));
    let dir = tempfile::tempdir().unwrap();
    write_survey(dir.path(), &found).unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(serde_json::from_str::<Survey>(&read("equivariance.json")).unwrap(), found);
    assert_eq!(read("equivariance.md"), survey_markdown(&found));
    let lines = 1 + 2 * 2 + 3 * found.measured.len();
    assert_eq!(survey_csv(&found).unwrap().lines().count(), lines);
    assert!(read("error-depth.svg").contains("k = 3, jets, N = 2"));
    assert!(read("error-width.svg").contains("<polyline"));
}

#[test]
fn closed_forms_need_no_measuring() {
    let found = survey(&SurveyConfig { subjects: vec![], ..small() }, &|_, _, _| ()).unwrap();
    assert!(found.measured.is_empty());
    assert!(!survey_markdown(&found).contains("Measured"));
}

#[test]
fn the_table_says_how_far_other_voxels_move_outputs() {
    let spacings = vec![[1.0, 1.0, 2.5]];
    let config = SurveyConfig { subjects: vec![], spacings, ..small() };
    let found = survey(&config, &|_, _, _| ()).unwrap();
    let table = survey_markdown(&found);
    assert!(table.contains("| 1x1x2.5 |") && table.contains("U-Net 2"), "{table}");
    let csv = survey_csv(&found).unwrap();
    let row = format!("U-Net,\"jets, N = 2\",3,2,voxels 1x1x2.5,{}", found.spacings[0].unet[1]);
    assert!(csv.lines().any(|line| line == row), "{csv}");
}

#[test]
fn the_table_says_how_well_conditioned_a_family_is() {
    let families = vec![Family::jets(2), "bessel:4".parse().unwrap()];
    let config = SurveyConfig { families, subjects: vec![], ..small() };
    let found = survey(&config, &|_, _, _| ()).unwrap();
    let table = survey_markdown(&found);
    assert!(table.contains("condition number") && table.contains("infinite"), "{table}");
}
