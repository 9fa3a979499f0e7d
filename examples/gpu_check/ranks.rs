//! Two processes that train together, each on a GPU of its own: this program, started again.

use std::fs::{File, read_to_string};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, exit};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use steer3d::dataset::Dataset;
use steer3d::ranks::{Launch, Launcher, World};
use steer3d::train::GradientSums;

use crate::networks::{apart, shapes, sums_by_nccl, train_in_parts};
use crate::say;

/// The argument after which this program is one of the processes; the folder and the number of epochs follow.
pub(crate) const ONE: &str = "one-of-two";

const EPOCHS: usize = 3;

/// Epochs of a training that does not end before one of its processes is killed.
const ENDLESS: usize = 1_000_000;

/// What a simulated GPU may take.
const LONG: Duration = Duration::from_secs(1200);

/// How long a process may take to notice that the other one was killed.
const TO_NOTICE: Duration = Duration::from_secs(10);

/// A process, whose output is in files.
struct Process {
    rank: usize,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn start(folder: &Path, rank: usize, port: u16, epochs: usize) -> Result<Self> {
        let [out, err] = ["out", "err"].map(|end| folder.join(format!("{rank}.{end}")));
        let child = Command::new(std::env::current_exe()?)
            .arg(ONE)
            .arg(folder)
            .arg(epochs.to_string())
            .env("RANK", rank.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env("WORLD_SIZE", "2")
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .env_remove("RUST_BACKTRACE")
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?)
            .spawn()?;
        Ok(Self { rank, child, out, err })
    }

    fn both(folder: &Path, epochs: usize) -> Result<[Self; 2]> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let start = |rank| Self::start(folder, rank, port, epochs);
        Ok([start(0)?, start(1)?])
    }

    fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let ended = within(limit, || Ok(self.child.try_wait()?));
        ended.with_context(|| format!("rank {} does not end", self.rank))
    }

    /// Waits until it has said so many lines.
    fn lines(&mut self, count: usize) -> Result<()> {
        within(LONG, || {
            if self.child.try_wait()?.is_some() {
                bail!("rank {} ends: {}", self.rank, self.complaints()?.join("; "));
            }
            Ok((read_to_string(&self.out)?.lines().count() >= count).then_some(()))
        })
    }

    /// What it says of errors.
    fn complaints(&self) -> Result<Vec<String>> {
        let said = read_to_string(&self.err)?;
        // The loader says this of the libraries that stand for NVIDIA's.
        let own = |line: &&str| !line.contains("no version information available");
        Ok(said.lines().filter(own).map(str::to_owned).collect())
    }
}

/// What `look` finds in time.
fn within<T>(limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(begin.elapsed() < limit, "{} s are over", limit.as_secs());
        sleep(Duration::from_millis(20));
    }
}

/// Two processes train as one does on two GPUs, and one that is killed ends the other.
pub(crate) fn ranks(gpu: &Device) -> Result<String> {
    let Ok(second) = crate::gpu(1) else { return Ok("not without a second GPU".into()) };
    let folder = tempfile::tempdir()?;
    let dataset = shapes(folder.path())?;
    let (sums, by, found) = numbers_of_both(folder.path())?;
    let trained = |devices: &[&Device]| -> Result<(Vec<f64>, Vec<f64>)> {
        let mut losses = vec![];
        let tell = &mut |loss: f64| losses.push(loss);
        let weights = train_in_parts(devices, &dataset, EPOCHS, sums, tell)?;
        Ok((losses, weights))
    };
    let (losses, weights) = trained(&[gpu, &second])?;
    ensure!(
        found == [&losses[..], &weights[..]].concat(),
        "one process on two GPUs has other bits"
    );
    let off = apart(&losses, &trained(&[&Device::Cpu])?.0);
    ensure!(off < 1e-2, "losses of two processes differ from the CPU's by {off:.1e}");
    for killed in [1, 0] {
        say(&killed_rank(folder.path(), killed)?);
    }
    Ok(format!(
        "{} steps by {by} with the bits of one process on two GPUs, losses differ from the CPU's by {off:.1e}; the other \
         notices when one is killed",
        losses.len()
    ))
}

/// How both processes add up gradients, by what, and their losses and weights.
fn numbers_of_both(folder: &Path) -> Result<(GradientSums, String, Vec<f64>)> {
    let mut both = Process::both(folder, EPOCHS)?;
    for process in &mut both {
        let status = process.end(LONG)?;
        ensure!(status.success(), "rank {}: {}", process.rank, process.complaints()?.join("; "));
    }
    let [first, second] = [read_to_string(&both[0].out)?, read_to_string(&both[1].out)?];
    ensure!(first == second, "two processes have other losses or weights");
    let (by, numbers) = first.split_once('\n').context("a process says nothing")?;
    let sums = if by == NCCL { GradientSums::Fast } else { GradientSums::Ordered };
    let numbers = numbers.lines().map(str::parse::<f64>).collect::<Result<Vec<_>, _>>()?;
    Ok((sums, by.to_owned(), numbers))
}

/// The line that a process ends with when the other one is killed.
fn killed_rank(folder: &Path, killed: usize) -> Result<String> {
    let mut both = Process::both(folder, ENDLESS)?;
    for process in &mut both {
        process.lines(3)?;
    }
    both[killed].child.kill()?;
    let other = &mut both[1 - killed];
    let status = other.end(TO_NOTICE)?;
    ensure!(!status.success(), "rank {} does not notice that the other was killed", other.rank);
    let lines = other.complaints()?;
    ensure!(lines.len() == 1, "expected one line of rank {}, found {lines:?}", other.rank);
    Ok(lines.concat())
}

const NCCL: &str = "NCCL";

/// Is one of the processes: it says by what gradients are added up, the loss of each step, and the weights.
pub(crate) fn one(folder: &Path, epochs: usize) -> ! {
    if let Err(error) = train_as_rank(folder, epochs) {
        eprintln!("{error:#}");
        exit(1);
    }
    exit(0)
}

fn train_as_rank(folder: &Path, epochs: usize) -> Result<()> {
    let launch = Launch::of_environment(Launcher::Torchrun)?;
    let world = World::connect(&launch, LONG)?;
    let gpu = crate::gpu(launch.local_rank)?;
    let dataset = Dataset::open(folder.join("tetris.h5"))?;
    world.rank.run(|| {
        let linked = sums_by_nccl(&gpu)?;
        say(if linked { NCCL } else { "TCP" });
        let sums = if linked { GradientSums::Fast } else { GradientSums::Ordered };
        let tell = &mut |loss: f64| say(&loss.to_string());
        let weights = train_in_parts(&[&gpu], &dataset, epochs, sums, tell)?;
        weights.iter().for_each(|weight| say(&weight.to_string()));
        Ok(())
    })
}
