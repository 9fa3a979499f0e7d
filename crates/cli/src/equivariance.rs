use std::cell::RefCell;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use steer3d::eval::equivariance::{Subject, SurveyConfig, survey};
use steer3d::kernels::Family;
use steer3d::report::{survey_markdown, write_survey};
use steer3d::so3::Irreps;

use crate::output::Output;

pub(crate) const EXAMPLES: &str = "Examples:
  steer3d equivariance
  steer3d equivariance --kernel-sizes 3,5,7,9 --families shells,jets:2 --closed-forms
  steer3d equivariance --kernel-sizes 7 --families jets:4 --irreps 4x0e+2x1o --out report
  steer3d equivariance --families jets:2,jets:3 --subjects network:4 --seeds 10
  steer3d equivariance --families jets:2 --widths 1.5,2,3 --closed-forms --spacings 1x1x1.5,1x1x2.5

Families: shells, jets:ORDER, bessel:FUNCTIONS, cosine:FUNCTIONS, radii. Subjects: convolution, strided, \
antialiased:SIGMA, gate, norm, tensor_product, sphere, network:DEPTH. With --out the folder gets equivariance.md, \
equivariance.json, equivariance.csv and the plots as SVG.";

#[derive(Args)]
pub(crate) struct EquivarianceArgs {
    /// Type of the fields between layers
    #[arg(long, default_value = "8x0+4x1+2x2")]
    irreps: Irreps,
    /// Kernel sizes, odd, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "5")]
    kernel_sizes: Vec<usize>,
    /// Kernel families, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "shells,jets:3")]
    families: Vec<Family>,
    /// Widths (voxels) of the fields for the closed forms, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "0.75,1,1.5,2,3")]
    widths: Vec<f64>,
    /// Edges x,y,z of voxels as 1x1x2.5, separated by commas: how far outputs move from those on cubes of edge 1
    #[arg(long, value_delimiter = ',', value_parser = spacing)]
    spacings: Vec<[f64; 3]>,
    /// Evaluate the closed forms only, which takes no time, and measure nothing but what --spacings asks for
    #[arg(long, conflicts_with = "subjects")]
    closed_forms: bool,
    /// What to measure, separated by commas; everything if not given
    #[arg(long, value_delimiter = ',')]
    subjects: Option<Vec<Subject>>,
    /// Voxels along each axis of a measured field: 9, 13, 17, ...
    #[arg(long, default_value_t = 33)]
    size: usize,
    /// Width (voxels) of the bumps of a measured field
    #[arg(long, default_value_t = 2.0)]
    width: f64,
    /// Random rotations for each seed
    #[arg(long, default_value_t = 20)]
    rotations: usize,
    /// Seeds of weights and fields
    #[arg(long, default_value_t = 2)]
    seeds: u64,
    /// Fields for each seed that are compared at the central voxel
    #[arg(long, default_value_t = 40)]
    fields: usize,
    /// Folder for tables and plots
    #[arg(long, short)]
    out: Option<PathBuf>,
}

fn spacing(text: &str) -> Result<[f64; 3], String> {
    let edges = text.split('x').map(str::parse).collect::<Result<Vec<f64>, _>>();
    let edges = edges.ok().and_then(|edges| <[f64; 3]>::try_from(edges).ok());
    edges.ok_or_else(|| "expected three edges as 1x1x2.5".to_owned())
}

pub(crate) fn run(args: &EquivarianceArgs, seed: u64, output: &Output) -> Result<()> {
    let subjects = match &args.subjects {
        _ if args.closed_forms => vec![],
        Some(subjects) => subjects.clone(),
        None => Subject::all(),
    };
    let config = SurveyConfig {
        irreps: args.irreps.clone(),
        sizes: args.kernel_sizes.clone(),
        families: args.families.clone(),
        widths: args.widths.clone(),
        spacings: args.spacings.clone(),
        subjects,
        size: args.size,
        width: args.width,
        rotations: args.rotations,
        seed,
        seeds: args.seeds,
        centre_fields: args.fields,
        ..SurveyConfig::default()
    };
    let progress = RefCell::new(output.progress("equivariance", 0));
    let survey = survey(&config, &|done, of, next| {
        let mut progress = progress.borrow_mut();
        progress.length(of);
        progress.at(done, next);
    })?;
    drop(progress);
    output.result(survey_markdown(&survey).trim_end(), &survey)?;
    if let Some(out) = &args.out {
        write_survey(out, &survey)?;
        output.say(&format!("tables and plots are in {}", out.display()));
    }
    Ok(())
}
