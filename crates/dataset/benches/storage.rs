//! Size and speed of ways to store volumes: the table of docs/src/guide/dataset-file.md.
#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

use std::path::Path;
use std::time::Instant;

use hdf5::File;
use ndarray::{Array5, ArrayView4};
use steer3d_dataset::{Dataset, ImportOptions, Storage, import_cath, import_medmnist};
use steer3d_so3::Stream;
use steer3d_volume::Voxeliser;

/// Items read from each file.
const ITEMS: usize = 256;

/// Shuffle and deflate level, if any, and items in a chunk.
const WAYS: [(Option<(bool, u8)>, usize); 8] = [
    (None, 1),
    (Some((false, 1)), 1),
    (Some((true, 1)), 1),
    (Some((false, 4)), 1),
    (Some((true, 4)), 1),
    (Some((true, 9)), 1),
    (Some((true, 4)), 4),
    (Some((true, 4)), 16),
];

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data");
    let (cath, adrenal) = (folder.path().join("cath.h5"), folder.path().join("adrenal.h5"));
    let options = ImportOptions::default();
    let source = data.join("cath/cath_3class_ca_small.npz");
    import_cath(&source, &cath, &Voxeliser::paper(50, 2.0), &options).expect("bundled data");
    let source = data.join("adrenal/adrenalmnist3d_trainval.npz");
    import_medmnist(&source, &adrenal, &options).expect("bundled data");
    println!("| set | filters | items in a chunk | kB an item | write, items/s | read, items/s |");
    println!("|---|---|---|---|---|---|");
    for (name, path) in [("CATH 50³ f32", &cath), ("Adrenal 28³ u8", &adrenal)] {
        let dataset = Dataset::open(path).expect("just made");
        for (filters, items) in WAYS {
            let name = format!("| {name} | {} | {items}", describe(filters));
            let path = folder.path().join("way.h5");
            let row = match dataset.meta().storage {
                Storage::F32 => way::<f32>(&dataset, &path, filters, items, |value| value),
                Storage::U8 { scale } => way::<u8>(&dataset, &path, filters, items, |value| {
                    (f64::from(value) / scale).round() as u8
                }),
            };
            println!("{name} | {row} |");
        }
        println!("| {name} | as written, read by steer3d | 1 | | | {:.0} |", direct(&dataset));
    }
}

fn describe(filters: Option<(bool, u8)>) -> String {
    match filters {
        None => "none".to_owned(),
        Some((false, level)) => format!("deflate {level}, fletcher32"),
        Some((true, level)) => format!("shuffle, deflate {level}, fletcher32"),
    }
}

/// The items in a shuffled order.
fn order() -> Vec<usize> {
    Stream::new(0, "order", &[]).permutation(ITEMS)
}

/// Items a second that [`Dataset::read_many`] gives on one thread.
fn direct(dataset: &Dataset) -> f64 {
    let mut target = vec![0.0; dataset.meta().item_len()];
    let start = Instant::now();
    for item in order() {
        dataset.read_many(&[item], &mut target).expect("whole");
    }
    ITEMS as f64 / start.elapsed().as_secs_f64()
}

/// Writes and reads items through the HDF5 library.
fn way<T: hdf5::H5Type + Copy>(
    dataset: &Dataset,
    path: &Path,
    filters: Option<(bool, u8)>,
    items: usize,
    store: impl Fn(f32) -> T,
) -> String {
    let [d, h, w] = dataset.meta().dims;
    let volumes: Vec<Vec<T>> = (0..ITEMS)
        .map(|i| dataset.read(i).expect("whole").into_data().into_iter().map(&store).collect())
        .collect();
    let start = Instant::now();
    let file = File::create(path).expect("a temporary file");
    let mut builder = file.new_dataset::<T>().chunk([items, 1, d, h, w]);
    if let Some((shuffle, level)) = filters {
        builder = if shuffle { builder.shuffle() } else { builder };
        builder = builder.deflate(level).fletcher32();
    }
    let stored = builder.shape([ITEMS, 1, d, h, w]).create("volumes").expect("a dataset");
    for (i, chunk) in volumes.chunks(items).enumerate() {
        let values: Vec<T> = chunk.concat();
        let block = Array5::from_shape_vec((items, 1, d, h, w), values).expect("whole chunks");
        stored.write_slice(&block, (i * items..(i + 1) * items, .., .., .., ..)).expect("space");
    }
    file.flush().expect("space");
    let written = start.elapsed().as_secs_f64();
    let size = stored.storage_size() as f64 / 1e3 / ITEMS as f64;
    let start = Instant::now();
    for item in order() {
        let read = stored.read_slice::<T, _, ndarray::Ix4>((item, .., .., .., ..)).expect("whole");
        std::hint::black_box(ArrayView4::from(&read));
    }
    let read = start.elapsed().as_secs_f64();
    format!("{size:.1} | {:.0} | {:.0}", ITEMS as f64 / written, ITEMS as f64 / read)
}
