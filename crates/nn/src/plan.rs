//! What a network is built from, before there are any weights.

use std::sync::Arc;

use steer3d_so3::Irreps;

use crate::block::{Block, Blocks, Residual};
use crate::error::fault;
use crate::layers::Pool;
use crate::{FieldType, NnError, SteerableBlock};

/// The most blocks of a network, and the most terms of the irreps of one of its fields.
const BLOCKS_MAX: usize = 1000;
const TERMS_MAX: usize = 256;

/// What a layer is built from.
#[derive(Debug)]
pub(crate) struct LayerPlan {
    /// The place of its weights.
    pub(crate) path: String,
    /// Its name in the list of layers.
    pub(crate) title: String,
    pub(crate) input: FieldType,
    /// The type that is wanted; a nonlinearity may give it in another order.
    pub(crate) output: FieldType,
    /// Kernel size in voxels.
    pub(crate) size: usize,
    /// Edges of the voxels of the input along D, H, W over those for which it is made.
    pub(crate) edges: [f64; 3],
    pub(crate) pool: Option<Pool>,
    pub(crate) role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Main,
    /// The last layer before the sum of a residual block.
    Last,
    /// The way past the layers of a residual block.
    Skip,
}

/// The blocks of a network or part of one.
pub(crate) struct Plan {
    pub(crate) blocks: Blocks<LayerPlan>,
    /// The type that the last of them gives.
    pub(crate) last: FieldType,
    /// The types that each entry of the decoder but the last gives.
    pub(crate) levels: Vec<FieldType>,
}

/// What all blocks of a network share.
pub(crate) struct Planner<'a> {
    /// The key of the factor by which a block shrinks the grid.
    pub(crate) stride_key: &'a str,
    /// Orientations of the channels that blocks give.
    pub(crate) orientations: usize,
    /// Edges of the voxels of the volume along D, H, W over those for which the network is made.
    pub(crate) edges: [f64; 3],
    /// How a grid with such edges over those for which it is made shrinks by a factor.
    pub(crate) pool: &'a dyn Fn(usize, [f64; 3]) -> Pool,
    /// The type that a layer gives of which a type is wanted.
    pub(crate) given: &'a dyn Fn(&FieldType) -> Result<FieldType, NnError>,
    /// Whether the sum of a residual block passes through ReLU.
    pub(crate) relu: bool,
}

/// By how much the grid has shrunk, and by how much along D, H, W on the voxels of the volume.
#[derive(Clone, Copy)]
struct Shrunk {
    made_for: usize,
    along: [usize; 3],
}

impl Shrunk {
    /// The edges of its voxels over those for which it is made, of those of the volume.
    fn edges(self, volume: [f64; 3]) -> [f64; 3] {
        let ratio = |axis: usize| self.along[axis] as f64 / self.made_for as f64;
        [0, 1, 2].map(|axis| volume[axis] * ratio(axis))
    }
}

impl Planner<'_> {
    /// The plan of a network or part of one.
    ///
    /// `key` is that of `entries` in the configuration and of the weights, `title` begins the names of layers. Each
    /// block of `decoder` joins what the last strided block before it was given.
    pub(crate) fn plan(
        &self,
        [key, title]: [&str; 2],
        input: FieldType,
        entries: &[SteerableBlock],
        decoder: &[SteerableBlock],
    ) -> Result<Plan, NnError> {
        let falling = entries.iter().enumerate().map(|(i, e)| (key, title, i, e, false));
        let rising =
            decoder.iter().enumerate().map(|(i, e)| ("decoder", "decoder block", i, e, true));
        let mut blocks: Vec<Block<LayerPlan>> = vec![];
        let mut levels = vec![];
        // The strided blocks that nothing joins yet, and what they are given.
        let mut strided: Vec<(usize, FieldType, Shrunk)> = vec![];
        let mut field = input;
        let mut shrunk = Shrunk { made_for: 1, along: [1; 3] };
        for (key, title, i, entry, rises) in falling.chain(rising) {
            let stride_key = format!("{key}[{i}].{}", self.stride_key);
            check(&stride_key, entry.stride, if rises { 1 } else { 8 })?;
            check(&format!("{key}[{i}].repeat"), entry.repeat, BLOCKS_MAX)?;
            if blocks.len() + entry.repeat > BLOCKS_MAX {
                return fault(key, format!("expected at most {BLOCKS_MAX} blocks in all"));
            }
            for irreps in [Some(&entry.fields), entry.hidden.as_ref()].into_iter().flatten() {
                check_terms(&format!("{key}[{i}]"), irreps)?;
            }
            let mut joins = None;
            if rises {
                let Some((from, skipped, grid)) = strided.pop() else {
                    let found = decoder.len();
                    let problem =
                        format!("expected at most one block for each strided block, found {found}");
                    return fault("decoder", problem);
                };
                if i > 0 {
                    levels.push(field.clone());
                }
                field = field.beside(&skipped)?;
                blocks[from].kept = true;
                shrunk = grid;
                joins = Some(from);
            }
            if entry.stride > 1 {
                strided.push((blocks.len(), field.clone(), shrunk));
            }
            for j in 0..entry.repeat {
                let (mut path, mut title) = (format!("{key}.{i}"), format!("{title} {}", i + 1));
                if entry.repeat > 1 {
                    (path, title) = (format!("{path}.{j}"), format!("{title}.{}", j + 1));
                }
                let stride = if j == 0 { entry.stride } else { 1 };
                let (block, given) =
                    self.block(entry, &path, title, field, (stride, &mut shrunk))?;
                blocks.push(Block { joins: joins.take(), ..block });
                field = given;
            }
        }
        Ok(Plan { blocks: blocks.into_iter().map(Arc::new).collect(), last: field, levels })
    }

    fn block(
        &self,
        entry: &SteerableBlock,
        path: &str,
        title: String,
        input: FieldType,
        (stride, shrunk): (usize, &mut Shrunk),
    ) -> Result<(Block<LayerPlan>, FieldType), NnError> {
        let edges = shrunk.edges(self.edges);
        let pool = (stride > 1).then(|| (self.pool)(stride, edges));
        if let Some(pool) = pool {
            let strides = pool.strides();
            shrunk.made_for *= stride;
            shrunk.along = [0, 1, 2].map(|axis| shrunk.along[axis] * strides[axis]);
        }
        let of =
            |irreps: &Irreps| FieldType { irreps: irreps.clone(), orientations: self.orientations };
        let fields = of(&entry.fields);
        let hidden = entry.hidden.as_ref().map_or_else(|| fields.clone(), of);
        let given = (self.given)(&fields)?;
        let main = |path: String, title: String, input, output: &FieldType| LayerPlan {
            path,
            title,
            input,
            output: output.clone(),
            size: entry.size,
            edges,
            pool,
            role: Role::Main,
        };
        let (layers, residual) = if entry.residual {
            let part =
                |i: usize| (format!("{path}.layers.{i}"), format!("{title} layer {}", i + 1));
            let ((path0, title0), (path1, title1)) = (part(0), part(1));
            let between = (self.given)(&hidden)?;
            let first = main(path0, title0, input.clone(), &hidden);
            let last = main(path1, title1, between, &fields);
            let skip = (pool.is_some() || input != given).then(|| LayerPlan {
                path: format!("{path}.skip"),
                title: format!("{title} skip"),
                input,
                output: given.clone(),
                size: 1,
                edges: shrunk.edges(self.edges),
                pool: None,
                role: Role::Skip,
            });
            let edges = shrunk.edges(self.edges);
            let last = LayerPlan { pool: None, role: Role::Last, edges, ..last };
            (vec![first, last], Some(Residual { skip, relu: self.relu }))
        } else {
            (vec![main(path.into(), title.clone(), input, &fields)], None)
        };
        let (kept, joins, weights) = (false, None, vec![]);
        Ok((Block { title, layers, residual, pool, kept, joins, weights }, given))
    }
}

/// Checks that `irreps` are a sum of not too many terms: the kernels between two fields are made for every pair.
pub(crate) fn check_terms(field: &str, irreps: &Irreps) -> Result<(), NnError> {
    let terms = irreps.blocks().count();
    if terms <= TERMS_MAX {
        return Ok(());
    }
    fault(field, format!("expected irreps of at most {TERMS_MAX} terms, found {terms}"))
}

fn check(field: &str, found: usize, most: usize) -> Result<(), NnError> {
    if (1..=most).contains(&found) {
        return Ok(());
    }
    let expected = if most == 1 { "1".into() } else { format!("1 to {most}") };
    fault(field, format!("expected {expected}, found {found}"))
}
