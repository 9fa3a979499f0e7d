//! Helices and strands from C-alpha positions.

/// Residues that decide together.
pub(crate) const WINDOW: usize = 5;

pub(crate) fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|axis| (a[axis] - b[axis]).powi(2)).sum::<f64>().sqrt()
}

/// Whether the first of `positions` begin a helix, by the distances of residues two, three and four apart
/// (Labesse et al. 1997, "P-SEA", <https://doi.org/10.1093/bioinformatics/13.3.291>).
pub(crate) fn begins_helix(positions: &[[f64; 3]]) -> bool {
    fits(positions, [[5.5, 0.5], [5.3, 0.5], [6.4, 0.6]])
}

/// Whether the first of `positions` begin a strand, likewise.
#[allow(dead_code)]
pub(crate) fn begins_strand(positions: &[[f64; 3]]) -> bool {
    fits(positions, [[6.7, 0.6], [9.9, 0.9], [12.4, 1.1]])
}

fn fits(positions: &[[f64; 3]], distances: [[f64; 2]; 3]) -> bool {
    positions.len() >= WINDOW
        && distances.iter().zip(&positions[2..]).all(|([mean, width], &position)| {
            (distance(positions[0], position) - mean).abs() <= *width
        })
}
