//! Prints the equivariance errors of kernel families as a Markdown table, and how long a network's
//! kernels take to build.
//!
//! ```sh
//! cargo run --release -p steer3d-kernels --example equivariance_table
//! ```
#![allow(clippy::print_stdout, reason = "the table is the output")]

use std::error::Error;
use std::time::Instant;

use steer3d_kernels::equivariance::{layer_error, mean_kernel_error};
use steer3d_kernels::{Family, KernelBasis};
use steer3d_so3::{Irreps, Stream};

const WIDTHS: [f64; 3] = [1.0, 1.5, 2.0];

fn main() -> Result<(), Box<dyn Error>> {
    let irreps: Irreps = "8x0+4x1+2x2".parse()?;
    println!("| k | family | kernel 1.0 | 1.5 | 2.0 | layer 1.0 | 1.5 | 2.0 |");
    println!("|---|---|---|---|---|---|---|---|");
    for size in [3, 5, 7, 9] {
        let mut families = vec![("shells".to_owned(), Family::shells())];
        families.extend((1..size.min(7)).map(|n| (format!("jets, N = {n}"), Family::jets(n))));
        for (name, family) in families {
            let jmax = 2 * irreps.lmax();
            let mut cells = vec![size.to_string(), name];
            for width in WIDTHS {
                cells.push(format!("{:.5}", mean_kernel_error(&family, size, jmax, width)?));
            }
            for width in WIDTHS {
                cells.push(format!("{:.5}", layer_error(&irreps, &irreps, size, &family, width)?));
            }
            println!("| {} |", cells.join(" | "));
        }
    }

    let hidden: Irreps = "16x0+16x1+16x2".parse()?;
    for (name, family, size) in [
        ("shells", Family::shells(), 7),
        ("jets, N = 3", Family::jets(3), 5),
        ("jets, N = 4", Family::jets(4), 7),
    ] {
        let start = Instant::now();
        for layer in 0..5 {
            let basis = KernelBasis::new(&hidden, &hidden, size, &family, [1.0; 3])?;
            basis.initial_weights(&mut Stream::new(0, "init", &[layer]));
        }
        println!("\n5 layers of 144 channels, k = {size}, {name}: {:.0?}", start.elapsed());
    }
    Ok(())
}
