//! Ranks that are processes which the first one connects: each has one TCP connection, to it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::bytes::{pack, unpack};
use crate::collectives::{Collectives, Failure, RankError};
use crate::launch::{Launch, Master};

/// How a connection begins.
const GREETING: &[u8; 16] = b"steer3d ranks 1\n";

/// How long processes have to come, at most.
const TO_COME: Duration = Duration::from_secs(300);

/// One of the processes. In a round each but the first sends its bytes to the first, which answers all of them.
#[derive(Debug)]
pub(crate) struct Process {
    index: usize,
    size: usize,
    limit: Duration,
    lines: Arc<Mutex<Lines>>,
    broken: AtomicBool,
    /// The first failure that this process heard of, in any group.
    heard: Arc<OnceLock<Failure>>,
}

/// Of the first process the connections of the others in their order, of the others the one to the first.
#[derive(Debug)]
struct Lines(Vec<TcpStream>);

/// What a process has to say in a round: its bytes, or that one fails.
type Said = Result<Vec<u8>, Failure>;

impl Process {
    /// Connects all processes of a launch.
    ///
    /// # Errors
    /// If the address is wrong or taken, or a process does not come in time.
    pub(crate) fn connect(launch: &Launch, master: &Master, limit: Duration) -> io::Result<Self> {
        let to_come = limit.min(TO_COME);
        let lines = match launch.rank {
            0 => Lines::listen(launch, master, to_come)?,
            _ => Lines::call(launch, master, to_come)?,
        };
        for line in &lines.0 {
            line.set_nodelay(true)?;
            line.set_read_timeout(Some(limit))?;
            line.set_write_timeout(Some(limit))?;
        }
        let (index, size, lines) = (launch.rank, launch.size, Arc::new(Mutex::new(lines)));
        let (broken, heard) = (AtomicBool::new(false), Arc::default());
        Ok(Self { index, size, limit, lines, broken, heard })
    }

    fn breaks(&self, failure: Failure) -> Failure {
        self.broken.store(true, Ordering::SeqCst);
        *self.heard.get_or_init(|| failure)
    }

    /// What the others say: the first process makes the answer to each of what all give.
    fn round(
        &self,
        own: Said,
        answer: impl Fn(&[Vec<u8>], usize) -> Vec<u8>,
    ) -> Result<Vec<u8>, RankError> {
        if let Some(failure) = self.heard.get().filter(|_| self.broken.load(Ordering::SeqCst)) {
            return Err(RankError::Failed(*failure));
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = &mut lines.0;
        let answered = if self.index > 0 {
            let heard = say(&mut lines[0], &own).and_then(|()| hear(&mut lines[0]));
            // The first of those that notice it says so.
            heard.map_err(|error| self.lost("rank 0", &error, 1))?
        } else {
            self.answer(&mut lines[..self.size - 1], own, answer)?
        };
        answered.map_err(|failure| RankError::Failed(self.breaks(failure)))
    }

    /// Hears all other processes, answers them, and gives the own answer.
    fn answer(
        &self,
        lines: &mut [TcpStream],
        own: Said,
        answer: impl Fn(&[Vec<u8>], usize) -> Vec<u8>,
    ) -> Result<Said, RankError> {
        let mut lost = None;
        let mut said = vec![own];
        for (line, rank) in lines.iter_mut().zip(1..) {
            said.push(hear(line).unwrap_or_else(|error| {
                lost.get_or_insert_with(|| self.lost(&format!("rank {rank}"), &error, 0));
                Err(Failure { rank, code: 1 })
            }));
        }
        let given: Result<Vec<Vec<u8>>, Failure> = said.into_iter().collect();
        for (line, rank) in lines.iter_mut().zip(1..) {
            let answered = given.as_ref().map(|given| answer(given, rank)).map_err(|f| *f);
            // One that is gone is found in the next round, if not before.
            let _ = say(line, &answered);
        }
        lost.map_or_else(|| Ok(given.map(|given| answer(&given, 0))), Err)
    }

    /// The error where a connection is lost, which the rank `told_by` tells.
    fn lost(&self, to: &str, error: &io::Error, told_by: usize) -> RankError {
        let (rank, size) = (self.index, self.size);
        self.breaks(Failure { rank: told_by, code: 1 });
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                RankError::TimedOut { rank, size, limit: self.limit }
            }
            kind => {
                use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
                let ended = matches!(kind, BrokenPipe | ConnectionReset | UnexpectedEof);
                let problem = if ended { "it has ended".to_owned() } else { error.to_string() };
                RankError::Broken { rank, size, to: to.to_owned(), problem }
            }
        }
    }
}

impl Collectives for Process {
    fn index(&self) -> usize {
        self.index
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, bytes: Vec<u8>) -> Result<Arc<[Vec<u8>]>, RankError> {
        let all = self.round(Ok(bytes), |given, _| pack(given))?;
        let all = unpack(&all).filter(|all| all.len() == self.size);
        all.map(Into::into).ok_or(RankError::Different)
    }

    fn exchange(&self, parts: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, RankError> {
        let part_of = |given: &Vec<u8>, rank: usize| unpack(given)?.into_iter().nth(rank);
        let for_rank = |given: &[Vec<u8>], rank: usize| {
            let parts: Vec<_> = given.iter().filter_map(|given| part_of(given, rank)).collect();
            pack(&parts)
        };
        let all = unpack(&self.round(Ok(pack(parts)), for_rank)?);
        all.filter(|all| all.len() == self.size).ok_or(RankError::Different)
    }

    fn first(&self, count: usize) -> Result<Arc<dyn Collectives>, RankError> {
        let lines = Arc::clone(&self.lines);
        let (index, limit, heard) = (self.index, self.limit, Arc::clone(&self.heard));
        let broken = AtomicBool::new(false);
        Ok(Arc::new(Self { index, size: count, limit, lines, broken, heard }))
    }

    fn be_patient(&self, patient: bool) {
        for line in &self.lines.lock().unwrap_or_else(PoisonError::into_inner).0 {
            // A limit that stays shows itself as an error of the next call.
            let _ = line.set_read_timeout((!patient).then_some(self.limit));
        }
    }

    fn fail(&self, code: u8) -> Failure {
        let own = Failure { rank: self.index, code };
        let first = self.heard.get().copied().unwrap_or(own);
        match self.round(Err(first), |_, _| vec![]) {
            Err(RankError::Failed(failure)) => failure,
            _ => self.heard.get().copied().unwrap_or(own),
        }
    }
}

fn say(line: &mut TcpStream, said: &Said) -> io::Result<()> {
    let numbers = match said {
        Ok(bytes) => [0, bytes.len() as u64],
        Err(Failure { rank, code }) => [1 + u64::from(*code), *rank as u64],
    };
    let mut message: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    message.extend(said.iter().flatten());
    line.write_all(&message)
}

fn hear(line: &mut TcpStream) -> io::Result<Said> {
    let mut numbers = [[0; 8]; 2];
    line.read_exact(numbers.as_flattened_mut())?;
    let [status, number] = numbers.map(u64::from_le_bytes);
    if let Some(code) = status.checked_sub(1) {
        return Ok(Err(Failure { rank: number as usize, code: code as u8 }));
    }
    let mut bytes = vec![];
    line.take(number).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < number {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(Ok(bytes))
}

impl Lines {
    /// The connections of all other processes to this one.
    fn listen(launch: &Launch, master: &Master, limit: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind((&*master.address, master.port))?;
        listener.set_nonblocking(true)?;
        let begin = Instant::now();
        let mut lines: Vec<Option<TcpStream>> = (1..launch.size).map(|_| None).collect();
        while let Some(missing) = lines.iter().position(Option::is_none) {
            match listener.accept() {
                Ok((line, _)) => {
                    if let Some(rank) = greeted(&line, launch)? {
                        lines[rank - 1] = Some(line);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if begin.elapsed() > limit {
                        let problem = format!("rank {} did not come", missing + 1);
                        return Err(io::Error::new(ErrorKind::TimedOut, problem));
                    }
                    sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self(lines.into_iter().flatten().collect()))
    }

    /// The connection to the first process, which may not listen yet.
    fn call(launch: &Launch, master: &Master, limit: Duration) -> io::Result<Self> {
        let begin = Instant::now();
        let mut line = loop {
            let to = (&*master.address, master.port).to_socket_addrs()?;
            match to.into_iter().find_map(|to| TcpStream::connect(to).ok()) {
                Some(line) => break line,
                None if begin.elapsed() > limit => {
                    return Err(io::Error::new(
                        ErrorKind::TimedOut,
                        "rank 0 does not listen there",
                    ));
                }
                None => sleep(Duration::from_millis(20)),
            }
        };
        let numbers = [launch.rank, launch.size].map(|number| (number as u64).to_le_bytes());
        line.write_all(&[&GREETING[..], numbers.as_flattened()].concat())?;
        let mut greeting = [0; 16];
        line.set_read_timeout(Some(limit))?;
        if line.read_exact(&mut greeting).is_err() || greeting != *GREETING {
            return Err(io::Error::other("what listens there is not rank 0 of the same processes"));
        }
        Ok(Self(vec![line]))
    }
}

/// The rank of a process that connects; none if it is a stranger.
fn greeted(mut line: &TcpStream, launch: &Launch) -> io::Result<Option<usize>> {
    line.set_nonblocking(false)?;
    line.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut greeting, mut numbers) = ([0; 16], [[0; 8]; 2]);
    let read = line.read_exact(&mut greeting);
    let read = read.and_then(|()| line.read_exact(numbers.as_flattened_mut()));
    if read.is_err() || greeting != *GREETING {
        return Ok(None);
    }
    let [rank, size] = numbers.map(|number| u64::from_le_bytes(number) as usize);
    if size != launch.size {
        let problem = format!("rank {rank} expects {size} processes, rank 0 {}", launch.size);
        return Err(io::Error::other(problem));
    }
    let known = (1..size).contains(&rank) && line.write_all(GREETING).is_ok();
    Ok(known.then_some(rank))
}
