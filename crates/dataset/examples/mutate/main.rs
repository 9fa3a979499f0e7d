//! Mutates a dataset and reads every mutant, in this process or by a command, and counts how that ends.
//!
//! ```sh
//! cargo run -p steer3d-dataset --example mutate -- set.h5 20000
//! cargo run -p steer3d-dataset --example mutate -- set.h5 2000 steer3d dataset verify {}
//! ```
//!
//! Mutant k is the same in every run. Every other one gets new checksums of the superblock, of object headers and of
//! headers of chunk indices, so that it is read further. A quarter of all are of a copy with the old groups and indices
//! of HDF5 1.6, which have no checksums. `{}` stands for the file. Exit code 1 if one ended by a panic, a signal or
//! the clock; such mutants are kept in the folder `mutants`.

#![allow(clippy::print_stdout, reason = "the counts are the output")]

mod repair;

use std::collections::BTreeMap;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hdf5::types::{FixedUnicode, IntSize, TypeDescriptor};
use rayon::prelude::*;
use steer3d_dataset::Dataset;
use steer3d_so3::Stream;

/// Longest time for a mutant.
const PATIENCE: Duration = Duration::from_secs(60);

type Error = Box<dyn std::error::Error>;

fn main() -> Result<ExitCode, Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dataset, count, command @ ..] = arguments.as_slice() else {
        return Err("expected DATASET COUNT [COMMAND...]".into());
    };
    let folder = std::env::temp_dir().join(format!("steer3d-mutants-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let old = folder.join("old.h5");
    write_old(&hdf5::File::open(dataset)?, &hdf5::File::create(&old)?)?;
    let originals = [fs::read(dataset)?, fs::read(old)?];
    let ends = Mutex::new(BTreeMap::<String, usize>::new());
    (0..count.parse::<u64>()?).into_par_iter().try_for_each(|k| {
        let path = folder.join(format!("{k}.h5"));
        fs::write(&path, mutant(&originals, k))?;
        let end = if command.is_empty() { read(&path) } else { run(command, &path)? };
        if is_bad(&end) {
            println!("mutant {k}: {end}");
            fs::create_dir_all("mutants")?;
            fs::copy(&path, format!("mutants/{k}.h5"))?;
        }
        *ends.lock().expect("no thread panics").entry(end).or_default() += 1;
        fs::remove_file(&path)
    })?;
    fs::remove_dir_all(&folder)?;
    let ends = ends.into_inner()?;
    ends.iter().for_each(|(end, count)| println!("{count}: {end}"));
    Ok(ExitCode::from(u8::from(ends.keys().any(|end| is_bad(end)))))
}

fn is_bad(end: &str) -> bool {
    ["panic", "signal", "time", "exit code 101"].iter().any(|bad| end.contains(bad))
}

/// Reads everything.
fn read(path: &Path) -> String {
    let all = || {
        let Ok(dataset) = Dataset::open(path) else { return "refused" };
        let items = 0..dataset.len().min(64);
        let read = |item| dataset.read(item).and(dataset.points(item)).and(dataset.mesh(item));
        if items.map(read).any(|read| read.is_err()) || !dataset.verify(&|_| {}).is_empty() {
            return "broken items";
        }
        "whole"
    };
    catch_unwind(all).unwrap_or("panic").to_owned()
}

fn run(command: &[String], path: &Path) -> std::io::Result<String> {
    let path = path.to_string_lossy();
    let words: Vec<String> = command.iter().map(|word| word.replace("{}", &path)).collect();
    let mut child = Command::new(&words[0]);
    let child = child.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = child.stderr(Stdio::null()).spawn()?;
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        match child.try_wait()? {
            Some(status) => {
                let code = status.code().map(|code| format!("exit code {code}"));
                return Ok(code.unwrap_or_else(|| format!("{status}")));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    child.kill()?;
    child.wait()?;
    Ok("out of time".to_owned())
}

fn mutant(originals: &[Vec<u8>; 2], k: u64) -> Vec<u8> {
    let mut stream = Stream::new(0, "mutant", &[k]);
    let mut bytes = originals[usize::from(k % 4 == 3)].clone();
    let repaired = k.is_multiple_of(2);
    for _ in 0..=stream.below(6) {
        let at = stream.below(bytes.len());
        match stream.below(6) {
            0 => bytes[at] ^= 1 << stream.below(8),
            1 => bytes[at] = [0, 0xff][stream.below(2)],
            // An address or a size of another place.
            2 if bytes.len() > 16 => {
                let [from, to] = [(); 2].map(|()| stream.below(bytes.len() - 8));
                bytes.copy_within(from..from + 8, to);
            }
            3 if stream.below(20) == 0 => bytes.truncate(at),
            _ => bytes[at] = stream.below(256) as u8,
        }
        if bytes.is_empty() {
            break;
        }
    }
    if repaired {
        repair::checksums(&mut bytes);
    }
    bytes
}

/// Writes a copy with the groups and chunk indices of HDF5 1.6.
fn write_old(from: &hdf5::File, to: &hdf5::File) -> Result<(), Error> {
    let format = from.attr("format")?.read_scalar::<hdf5::types::FixedAscii<15>>()?;
    to.new_attr::<hdf5::types::FixedAscii<15>>().create("format")?.write_scalar(&format)?;
    to.new_attr::<u32>().create("schema_version")?.write_scalar(&1u32)?;
    let groups = from.groups()?;
    for group in &groups {
        to.create_group(&group.name())?;
    }
    let nested = groups.iter().map(hdf5::Group::datasets).collect::<hdf5::Result<Vec<_>>>()?;
    for dataset in from.datasets()?.iter().chain(nested.iter().flatten()) {
        match dataset.dtype()?.to_descriptor()? {
            TypeDescriptor::Unsigned(IntSize::U1) => copy::<u8>(dataset, to)?,
            TypeDescriptor::Unsigned(IntSize::U2) => copy::<u16>(dataset, to)?,
            TypeDescriptor::Unsigned(IntSize::U4) => copy::<u32>(dataset, to)?,
            TypeDescriptor::Unsigned(_) => copy::<u64>(dataset, to)?,
            TypeDescriptor::Float(hdf5::types::FloatSize::U4) => copy::<f32>(dataset, to)?,
            TypeDescriptor::Float(_) => copy::<f64>(dataset, to)?,
            TypeDescriptor::FixedUnicode(64) => copy::<FixedUnicode<64>>(dataset, to)?,
            _ => copy::<FixedUnicode<512>>(dataset, to)?,
        }
    }
    Ok(())
}

fn copy<T: hdf5::H5Type>(dataset: &hdf5::Dataset, to: &hdf5::File) -> Result<(), Error> {
    let values = dataset.read_dyn::<T>()?;
    let mut chunk = dataset.shape();
    chunk[0] = if chunk.len() > 3 { 1 } else { chunk[0].max(1) };
    let builder = to.new_dataset_builder().with_data(values.view()).chunk(chunk);
    builder.shuffle().deflate(4).create(dataset.name().as_str())?;
    Ok(())
}
