//! Models of any kind, as a program that answers on its standard output.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use steer3d_files::digest::PartHasher;

use crate::error::EvalError;
use crate::predictor::AnswerSpec;
use crate::predictor::{ModelError, Predictor};

/// Bytes in which the first line of an answer must end.
const HEADER_MAX: usize = 4096;

/// Bytes that are read at once, and pieces of so many that wait to be looked at: a program that writes without end
/// waits.
const PIECE: usize = 1 << 16;
const PIECES: usize = 4;

/// What can go wrong with the program behind a [`SubprocessPredictor`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubprocessError {
    /// It ended, or closed its input or output, before it had answered.
    #[error("`{command}` ended before it answered ({status}); its own messages say why")]
    Ended {
        /// The command.
        command: String,
        /// How it ended.
        status: String,
    },
    /// It did not answer in time.
    #[error(
        "`{command}` has not answered within {} s ({found} bytes came, expected {expected}); give it more time with \
         --command-timeout, or smaller batches",
        timeout.as_secs_f64()
    )]
    Silent {
        /// The command.
        command: String,
        /// The time that it had.
        timeout: Duration,
        /// Bytes of the answer that came.
        found: usize,
        /// What was awaited: their number, or a line.
        expected: String,
    },
    /// Its answer is not of the agreed form.
    #[error(
        "`{command}` answered {found}, expected the line {expected} and then the numbers; it must print nothing else on standard output"
    )]
    Answer {
        /// The command.
        command: String,
        /// The line that was expected.
        expected: String,
        /// What came.
        found: String,
    },
    /// It wrote without being asked.
    #[error(
        "`{command}` wrote {found} {when}; it must print nothing on standard output but its answers"
    )]
    Unasked {
        /// The command.
        command: String,
        /// The beginning of it.
        found: String,
        /// Before the first batch, or after an answer.
        when: &'static str,
    },
}

/// A program that is started once and given batches on its standard input; `docs/src/guide/predictors.md` of
/// the repository has the protocol and an example. It ends with its predictor, and all that it has started in its process group
/// too.
#[derive(Debug)]
pub struct SubprocessPredictor {
    command: String,
    spec: AnswerSpec,
    timeout: Duration,
    process: Mutex<Process>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    questions: SyncSender<Vec<u8>>,
    pieces: Receiver<Vec<u8>>,
    /// What came and was not yet looked at.
    unread: Vec<u8>,
    asked: bool,
}

#[derive(Serialize)]
struct Question<'a> {
    shape: &'a [usize],
    dtype: &'a str,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct Answer {
    shape: Vec<usize>,
}

/// What the bytes that a program wrote are of an answer.
#[derive(Debug)]
pub enum Reply {
    /// All of it: the numbers, and how many bytes it has.
    Whole(Vec<f32>, usize),
    /// Its beginning, and what is awaited.
    Begun(String),
    /// So many bytes that do not begin an answer.
    Wrong(usize),
}

impl Reply {
    fn read(bytes: &[u8], expected: &Answer) -> Self {
        let line = match bytes.iter().take(HEADER_MAX).position(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if bytes.len() >= HEADER_MAX => return Self::Wrong(bytes.len()),
            None => return Self::Begun("a line".to_owned()),
        };
        if !serde_json::from_slice(&bytes[..line]).is_ok_and(|found: Answer| found == *expected) {
            return Self::Wrong(line);
        }
        let length = 4 * expected.shape.iter().product::<usize>();
        let Some(numbers) = bytes.get(line..line + length) else {
            return Self::Begun(length.to_string());
        };
        let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        Self::Whole(numbers.chunks_exact(4).map(value).collect(), line + length)
    }

    /// What `bytes` are of an answer of this shape.
    pub fn of(bytes: &[u8], shape: &[usize]) -> Self {
        Self::read(bytes, &Answer { shape: shape.to_vec() })
    }
}

impl SubprocessPredictor {
    /// The time that a program has for a batch unless [`with_timeout`](Self::with_timeout) gives it another: 10 minutes.
    pub const TIMEOUT: Duration = Duration::from_secs(600);

    /// Starts `command` in a shell, for what a dataset asks.
    ///
    /// # Errors
    /// [`EvalError::Start`] when there is no shell.
    pub fn start(command: &str, spec: AnswerSpec) -> Result<Self, EvalError> {
        let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("sh", "-c") };
        let mut program = Command::new(shell);
        program.args([flag, command]).stdin(Stdio::piped()).stdout(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut program, 0);
        let start = |source| EvalError::Start { command: command.into(), source };
        let mut child = programs::spawn(&mut program).map_err(start)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(start(std::io::ErrorKind::BrokenPipe.into()));
        };
        let (questions, to_ask) = sync_channel(1);
        let (found, pieces) = sync_channel(PIECES);
        thread::spawn(move || ask_all(input, &to_ask));
        thread::spawn(move || read_all(output, &found));
        Ok(Self {
            command: command.into(),
            spec,
            timeout: Self::TIMEOUT,
            process: Mutex::new(Process { child, questions, pieces, unread: vec![], asked: false }),
        })
    }

    /// Gives the program another time for each batch.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The answer to a batch of a shape.
    fn ask(&self, shape: &[usize], values: &[f32]) -> Result<Vec<f32>, ModelError> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let process = &mut *process;
        self.check_nothing_unread(process)?;
        process.asked = true;
        let mut question = serde_json::to_vec(&Question { shape, dtype: "<f4" })?;
        question.push(b'\n');
        question.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        let end = Instant::now() + self.timeout;
        self.give(process, question, end)?;
        let expected = Answer { shape: self.spec.shape_of(shape) };
        let answer = loop {
            match Reply::read(&process.unread, &expected) {
                Reply::Whole(answer, length) => {
                    process.unread.drain(..length);
                    break answer;
                }
                Reply::Begun(awaited) => self.wait(process, end, &awaited)?,
                Reply::Wrong(length) => {
                    return Err(self.wrong(&expected, &process.unread[..length])?.into());
                }
            }
        };
        self.check_nothing_unread(process)?;
        Ok(answer)
    }

    /// Gives the program a question, once it has taken the one before.
    fn give(
        &self,
        process: &mut Process,
        mut question: Vec<u8>,
        end: Instant,
    ) -> Result<(), SubprocessError> {
        while let Err(refused) = process.questions.try_send(question) {
            question = match refused {
                TrySendError::Full(question) if Instant::now() < end => question,
                TrySendError::Full(_) => return Err(self.silent(process, "that it reads")),
                TrySendError::Disconnected(_) => return Err(self.ended(&mut process.child)),
            };
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Waits for more of an answer.
    fn wait(&self, process: &mut Process, end: Instant, expected: &str) -> Result<(), ModelError> {
        match process.pieces.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(piece) => {
                process.unread.extend(piece);
                Ok(())
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.ended(&mut process.child).into()),
            Err(RecvTimeoutError::Timeout) => Err(self.silent(process, expected).into()),
        }
    }

    fn silent(&self, process: &Process, expected: &str) -> SubprocessError {
        SubprocessError::Silent {
            command: self.command.clone(),
            timeout: self.timeout,
            found: process.unread.len(),
            expected: expected.into(),
        }
    }

    fn check_nothing_unread(&self, process: &mut Process) -> Result<(), SubprocessError> {
        process.unread.extend(process.pieces.try_iter().flatten());
        if process.unread.is_empty() {
            return Ok(());
        }
        Err(SubprocessError::Unasked {
            command: self.command.clone(),
            found: beginning(&process.unread),
            when: if process.asked { "after its answer" } else { "before it was asked" },
        })
    }

    fn wrong(&self, expected: &Answer, line: &[u8]) -> Result<SubprocessError, ModelError> {
        Ok(SubprocessError::Answer {
            command: self.command.clone(),
            expected: serde_json::to_string(expected)?,
            found: beginning(line),
        })
    }

    /// How the program ended; it is given a moment to do so.
    fn ended(&self, child: &mut Child) -> SubprocessError {
        let mut status = "it still runs, but closed its input or output".to_owned();
        for _ in 0..50 {
            if let Ok(Some(found)) = child.try_wait() {
                status = found.to_string();
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        SubprocessError::Ended { command: self.command.clone(), status }
    }
}

/// The first line of what a program wrote, at most 80 characters, without control characters.
fn beginning(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(HEADER_MAX)]);
    let line: String = text.lines().next().unwrap_or_default().chars().take(80).collect();
    format!("`{}`", line.trim_end().replace(char::is_control, "\u{FFFD}"))
}

/// Gives a program its questions, until it takes no more or there are none.
fn ask_all(mut input: ChildStdin, questions: &Receiver<Vec<u8>>) {
    for question in questions {
        if input.write_all(&question).and_then(|()| input.flush()).is_err() {
            return;
        }
    }
}

/// Reads what a program writes, until its end or until nobody wants it.
fn read_all(mut output: ChildStdout, found: &SyncSender<Vec<u8>>) {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = output.read(&mut piece) {
        if found.send(piece[..length].to_vec()).is_err() {
            return;
        }
    }
}

impl Predictor for SubprocessPredictor {
    /// The command.
    fn name(&self) -> &str {
        &self.command
    }

    fn spec(&self) -> Option<&AnswerSpec> {
        Some(&self.spec)
    }

    /// The command, and what the files among its words hold.
    fn fingerprint(&self) -> Option<String> {
        let mut print = PartHasher::default();
        print.add(self.command.as_bytes());
        let words = self.command.split_whitespace().map(|word| word.trim_matches(['\'', '"']));
        for file in words.map(Path::new).filter(|path| path.is_file()) {
            print.add_file(file).ok()?;
        }
        Some(print.text())
    }

    fn logits(&self, batch: &Tensor) -> Result<Tensor, ModelError> {
        let values = batch.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let logits = self.ask(batch.dims(), &values)?;
        Ok(Tensor::from_vec(logits, self.spec.shape_of(batch.dims()), &Device::Cpu)?)
    }
}

impl Drop for SubprocessPredictor {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        programs::end(&mut process.child);
    }
}

pub use programs::end_programs;

/// The programs that run, each the first of a process group.
mod programs {
    use std::process::{Child, Command};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    static RUNNING: Mutex<Vec<u32>> = Mutex::new(vec![]);

    fn running() -> MutexGuard<'static, Vec<u32>> {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn spawn(program: &mut Command) -> std::io::Result<Child> {
        let mut running = running();
        let child = program.spawn()?;
        running.push(child.id());
        Ok(child)
    }

    /// Ends a program and its process group.
    pub(super) fn end(child: &mut Child) {
        let id = child.id();
        let mut running = running();
        if running.contains(&id) {
            kill_group(id);
        }
        let _ = child.kill();
        let _ = child.wait();
        running.retain(|other| *other != id);
    }

    /// Ends the programs of all [`SubprocessPredictor`](super::SubprocessPredictor)s and their process groups, for a
    /// process that is about to exit without dropping them. None can be started after it.
    pub fn end_programs() {
        let running = running();
        running.iter().for_each(|id| kill_group(*id));
        std::mem::forget(running);
    }

    #[cfg(unix)]
    fn kill_group(id: u32) {
        use rustix::process::{Pid, Signal, kill_process_group};
        if let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(id, Signal::KILL);
        }
    }

    #[cfg(not(unix))]
    fn kill_group(_id: u32) {}
}
