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
        let [of_two, of_many] = [2, 1024].map(|ranks| by_mpi(&network, ranks).1);
        let kb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e3);
        let parameters = network.params().count();
        format!(
            "| `{name}` | {parameters} | {} | {} | {} | {} | {} |",
            two.messages,
            kb(two.bytes),
            kb(many.bytes),
            kb(of_two),
            kb(of_many)
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

/// What a rank gives in each message of a step that all get, and what it gives of the gradients, of which each gets a share.
fn messages(network: &Network, ranks: usize) -> (Vec<usize>, usize) {
    let params = network.params();
    let count = |wanted: &str| {
        let found = params.all().find(|(name, _)| *name == wanted);
        found.map_or(0, |(_, var)| var.elem_count())
    };
    let mut to_all = vec![];
    for norm in params.all().filter_map(|(name, _)| name.strip_suffix("running_var")) {
        let [fields, scalars] =
            ["running_var", "running_mean"].map(|of| count(&format!("{norm}{of}")));
        // Means and variances of all fields and the number of items; then a sum for each weight and bias.
        to_all.extend([8 * (2 * fields + 1), 8 * (fields + scalars)]);
    }
    let bytes = params.dtype().size_in_bytes();
    let [losses, stop, sums] = [4 * size_of::<f64>(), 1, params.count() / ranks * bytes];
    to_all.extend([losses, stop, sums]);
    let gradients = params.count() * bytes;
    let traffic = step_traffic(network, ranks);
    assert_eq!(to_all.len() as u64 + 1, traffic.messages);
    assert_eq!((to_all.iter().sum::<usize>() + gradients) as u64, traffic.bytes);
    (to_all, gradients)
}

/// The bytes of every rank with which a message by MPI begins, and how many of them are of the message: those of
/// crates/ranks/src/mpi.rs.
const HEAD: usize = 1024;
const IN_HEAD: usize = HEAD - 16;

/// How often MPI gathers in a step, and the bytes that a rank receives: of each message a head of every rank, then what does
/// not fit into it; before the gradients the lengths of all parts, which are a message of their own.
fn by_mpi(network: &Network, ranks: usize) -> (usize, u64) {
    let (mut to_all, gradients) = messages(network, ranks);
    to_all.push(ranks * size_of::<u64>());
    let others = ranks - 1;
    let rest = |bytes: &usize| bytes.saturating_sub(IN_HEAD);
    let received: usize = to_all.iter().map(|bytes| others * (HEAD + rest(bytes))).sum();
    let calls = to_all.iter().map(|bytes| 1 + usize::from(rest(bytes) > 0));
    (calls.sum(), (received + gradients * others / ranks) as u64)
}

/// Of a step whose computation takes `seconds` on each of n ranks: what MPI gathers takes the time of a message for each
/// doubling of the ranks, a message takes `on_host` once, the gradients take a message to each other rank, and a rank receives
/// all bytes over its link.
fn efficiency(
    network: &Network,
    seconds: f64,
    on_host: f64,
    link: (f64, f64),
    ranks: usize,
) -> f64 {
    if ranks == 1 {
        return 1.0;
    }
    let (calls, received) = by_mpi(network, ranks);
    let doublings = (ranks as f64).log2().ceil();
    let waits = calls as f64 * doublings + (ranks - 1) as f64;
    let on_host = step_traffic(network, ranks).messages as f64 * on_host;
    seconds / (seconds + waits * link.0 + on_host + received as f64 / link.1)
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
            let powers = || (0..20).map(|power| 1_usize << power);
            let half = powers().find(|ranks| of(*ranks) < 0.5).unwrap();
            let volumes = |ranks: &usize| *ranks as f64 * of(*ranks);
            let most = powers().max_by(|a, b| volumes(a).total_cmp(&volumes(b))).unwrap();
            lines.push(format!("| {device} | {link} | {} | {half} | {most} |", shares.join(" | ")));
        }
    }
    expect(&lines);
}
