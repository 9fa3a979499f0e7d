//! What the processes of a training exchange, and what that costs: the tables of docs/src/guide/cluster.md.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use steer3d_dataset::{Dataset, ImportOptions, import_cath};
use steer3d_experiments::Experiment;
use steer3d_kernels::Family;
use steer3d_nn::{Network, SteerableBlock, SteerableConfig};
use steer3d_train::step_traffic;
use steer3d_volume::Voxeliser;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn expect(lines: &[String]) {
    let page = fs::read_to_string(root().join("docs/src/guide/cluster.md")).unwrap();
    let missing = lines.iter().any(|line| !page.lines().any(|found| found == line));
    assert!(!missing, "docs/src/guide/cluster.md does not have all of:\n{}", lines.join("\n"));
}

#[test]
fn the_page_tells_what_bundled_networks_exchange() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cath.h5");
    let archive = root().join("data/cath/cath_3class_ca_small.npz");
    import_cath(&archive, &path, &Voxeliser::paper(8, 6.0), &ImportOptions::default()).unwrap();
    let dataset = Dataset::open(&path).unwrap();
    let line = |name: &str| {
        let text = fs::read_to_string(root().join(format!("examples/experiments/{name}.toml")));
        let experiment = Experiment::parse(text.unwrap().parse().unwrap(), &[]).unwrap();
        let model = experiment.model(&dataset, &Device::Cpu).unwrap();
        let network = Network::new(&model, 0, DType::F32, &Device::Cpu).unwrap();
        let [two, many] = [2, 1024].map(|ranks| step_traffic(&network, ranks));
        let kb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e3);
        let parameters = network.params().count();
        format!(
            "| `{name}` | {parameters} | {} | {} | {} |",
            two.messages,
            kb(two.bytes),
            kb(many.bytes)
        )
    };
    expect(&["cath-steerable", "cath-plain", "cath-32"].map(line));
}

/// A link between machines: its name, seconds of a message, and bytes in a second.
const LINKS: [(&str, f64, f64); 3] = [
    ("10 Gbit/s Ethernet", 25e-6, 1.25e9),
    ("100 Gbit/s InfiniBand", 2e-6, 12.5e9),
    ("NVLink", 5e-6, 300e9),
];

/// Of a step whose computation takes `seconds` on each of n ranks: a message takes its time for each doubling of the
/// ranks, and `on_host` once, and each rank sends the parts of the gradients of all others.
fn efficiency(
    network: &Network,
    seconds: f64,
    on_host: f64,
    link: (f64, f64),
    ranks: usize,
) -> f64 {
    let traffic = step_traffic(network, ranks);
    let n = ranks as f64;
    let doublings = n.log2().ceil();
    let messages = traffic.messages as f64 * (doublings * link.0 + on_host);
    let bytes = 2.0 * traffic.bytes as f64 * (n - 1.0) / n;
    let exchange = if ranks == 1 { 0.0 } else { messages + bytes / link.1 };
    seconds / (seconds + exchange)
}

#[test]
fn the_page_tells_what_is_predicted() {
    let block = |fields: &str| SteerableBlock::new(fields.parse().unwrap(), 5, 1);
    let fields = ["16x0+16x1+16x2"; 4].into_iter().chain(["64x0"]);
    let config = SteerableConfig {
        blocks: fields.map(block).collect(),
        kernel: Family::jets(3),
        ..SteerableConfig::small(1, 3).unwrap()
    };
    let network = Network::new(&config.into(), 0, DType::F32, &Device::Cpu).unwrap();
    // docs/src/performance.md: a step of one volume of 48³ voxels on two threads, and an eighth of five layers of eight
    // volumes of 64³ voxels on an H100, whose statistics go through the memory of the host.
    let cases = [("two threads", 1.007, 0.0), ("a GPU", 5.0 * 0.0764 / 8.0, 30e-6)];
    let mut lines = vec![];
    for (device, seconds, on_host) in cases {
        for (link, message, bytes) in LINKS {
            if device == "two threads" && link == "NVLink" {
                continue;
            }
            let of = |ranks| efficiency(&network, seconds, on_host, (message, bytes), ranks);
            let shares = [1, 2, 8, 64, 1024].map(|ranks| format!("{:.3}", of(ranks)));
            lines.push(format!("| {device} | {link} | {} |", shares.join(" | ")));
        }
    }
    expect(&lines);
}
