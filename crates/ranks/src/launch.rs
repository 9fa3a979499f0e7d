//! What a launcher says in environment variables of the process that it starts.

use std::fmt;

/// What starts one process for each device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Launcher {
    /// The launcher that the environment variables are of, if there is one
    #[default]
    Auto,
    /// No other process, whatever the variables say
    None,
    /// srun: SLURM_PROCID, SLURM_LOCALID, SLURM_NTASKS
    Slurm,
    /// torchrun, or anything that sets RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT
    Torchrun,
    /// mpirun or mpiexec of Open MPI (OMPI_COMM_WORLD_*) or MPICH (PMI_*)
    Mpi,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Slurm => "slurm",
            Self::Torchrun => "torchrun",
            Self::Mpi => "mpi",
        })
    }
}

/// What a launcher says of one of the processes that it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The launcher that was found; [`Launcher::None`] if there is none.
    pub launcher: Launcher,
    /// The place of the process among all.
    pub rank: usize,
    /// Its place among those on its machine: the number of its GPU.
    pub local_rank: usize,
    /// How many processes there are.
    pub size: usize,
    /// Where the first process can be reached, if that is said.
    pub master: Option<Master>,
}

/// An address of the first process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// Name or number of its machine.
    pub address: String,
    /// The port at which it listens.
    pub port: u16,
}

/// Environment variables that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// A variable of the launcher is not there.
    #[error(
        "--launcher {launcher}: expected the environment variable {variable}{}, found none; start the processes with {}",
        beside.as_ref().map_or_else(String::new, |other| format!(" beside {other}")), starter(*launcher)
    )]
    Missing {
        /// The launcher.
        launcher: Launcher,
        /// The variable.
        variable: &'static str,
        /// A variable that is there and needs it.
        beside: Option<&'static str>,
    },
    /// A variable is not the number that it should be.
    #[error("environment variable {variable}: expected {expected}, found `{found}`")]
    Number {
        /// The variable.
        variable: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
}

fn starter(launcher: Launcher) -> &'static str {
    match launcher {
        Launcher::Slurm => "srun",
        Launcher::Torchrun => "torchrun",
        _ => "mpirun",
    }
}

/// Gives the value of an environment variable.
type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The variables of a launcher.
struct Names {
    launcher: Launcher,
    rank: &'static str,
    /// The first one of these that is there, else it is the rank.
    local_rank: &'static [&'static str],
    size: &'static str,
}

const TORCHRUN: Names = Names {
    launcher: Launcher::Torchrun,
    rank: "RANK",
    local_rank: &["LOCAL_RANK"],
    size: "WORLD_SIZE",
};
const OPEN_MPI: Names = Names {
    launcher: Launcher::Mpi,
    rank: "OMPI_COMM_WORLD_RANK",
    local_rank: &["OMPI_COMM_WORLD_LOCAL_RANK"],
    size: "OMPI_COMM_WORLD_SIZE",
};
const MPICH: Names = Names {
    launcher: Launcher::Mpi,
    rank: "PMI_RANK",
    local_rank: &["MPI_LOCALRANKID", "PMI_LOCAL_RANK"],
    size: "PMI_SIZE",
};
/// Of a step: the variables of the allocation are there without srun, too.
const SLURM_STEP: Names = Names { size: "SLURM_STEP_NUM_TASKS", ..SLURM };
const SLURM: Names = Names {
    launcher: Launcher::Slurm,
    rank: "SLURM_PROCID",
    local_rank: &["SLURM_LOCALID"],
    size: "SLURM_NTASKS",
};

impl Launch {
    /// One process that no launcher started.
    pub const NONE: Self =
        Self { launcher: Launcher::None, rank: 0, local_rank: 0, size: 1, master: None };

    /// Whether this process is to tell what is wrong with the variables: those that all have in common are told by the
    /// first one.
    pub fn tells(error: &LaunchError) -> bool {
        Self::tells_by(error, &|name| std::env::var(name).ok())
    }

    fn tells_by(error: &LaunchError, variables: Variables<'_>) -> bool {
        let all = [TORCHRUN, OPEN_MPI, SLURM, MPICH];
        let is_own = |variable: &&'static str| {
            all.iter().any(|names| names.rank == *variable || names.local_rank.contains(variable))
        };
        let ranks = all.iter().filter_map(|names| variables(names.rank)?.parse::<u64>().ok());
        match error {
            LaunchError::Number { variable, .. } if is_own(variable) => true,
            _ => ranks.max().unwrap_or(0) == 0,
        }
    }

    /// What the environment variables of this process say.
    ///
    /// # Errors
    /// As [`Launch::of`].
    pub fn of_environment(launcher: Launcher) -> Result<Self, LaunchError> {
        Self::of(launcher, &|name| std::env::var(name).ok())
    }

    /// What `variables` say. Of several launchers inside of one another [`Launcher::Auto`] takes the innermost: torchrun,
    /// mpirun of Open MPI, a step of srun, mpiexec of MPICH, then the variables of torchrun without it. A step of one task
    /// comes last, since it may be the shell in which another launcher was started. A batch script of Slurm that is not a
    /// step is one process.
    ///
    /// # Errors
    /// [`LaunchError`] if variables of the launcher are missing, are no numbers, or contradict one another.
    pub fn of(launcher: Launcher, variables: Variables<'_>) -> Result<Self, LaunchError> {
        let has = |name: &str| variables(name).is_some();
        let names = match launcher {
            Launcher::None => return Ok(Self::NONE),
            Launcher::Torchrun => TORCHRUN,
            Launcher::Slurm if has(SLURM_STEP.size) => SLURM_STEP,
            Launcher::Slurm => SLURM,
            Launcher::Mpi if !has(OPEN_MPI.rank) && has(MPICH.rank) => MPICH,
            Launcher::Mpi => OPEN_MPI,
            Launcher::Auto if has("TORCHELASTIC_RUN_ID") => TORCHRUN,
            Launcher::Auto => {
                let one = |size: String| size.trim() == "1";
                let all = match variables(SLURM_STEP.size).is_some_and(one) {
                    false => [OPEN_MPI, SLURM_STEP, MPICH, TORCHRUN],
                    true => [OPEN_MPI, MPICH, TORCHRUN, SLURM_STEP],
                };
                match all.into_iter().find(|names| has(names.size)) {
                    Some(names) => names,
                    None => return Ok(Self::NONE),
                }
            }
        };
        names.read(variables)
    }
}

impl Names {
    fn read(&self, variables: Variables<'_>) -> Result<Launch, LaunchError> {
        let launcher = self.launcher;
        let missing = |variable, beside| LaunchError::Missing { launcher, variable, beside };
        let required = |variable, beside: &'static str| {
            let beside = variables(beside).map(|_| beside);
            variables(variable).ok_or_else(|| missing(variable, beside))
        };
        let size = required(self.size, self.rank)?;
        let size = number(self.size, &size, 1, None)?;
        let below = Some((size, self.size));
        let rank = number(self.rank, &required(self.rank, self.size)?, 0, below)?;
        let local = self.local_rank.iter().find_map(|name| Some((*name, variables(name)?)));
        let local_rank = match local {
            Some((name, text)) => number(name, &text, 0, below)?,
            None => rank,
        };
        let master = master(launcher, size, variables)?;
        Ok(Launch { launcher, rank, local_rank, size, master })
    }
}

/// Where the first process listens; torchrun has to say it.
fn master(
    launcher: Launcher,
    size: usize,
    variables: Variables<'_>,
) -> Result<Option<Master>, LaunchError> {
    let (address, port) = (variables("MASTER_ADDR"), variables("MASTER_PORT"));
    if launcher != Launcher::Torchrun && (address.is_none() || port.is_none()) || size == 1 {
        return Ok(None);
    }
    let missing =
        |variable| LaunchError::Missing { launcher, variable, beside: Some("WORLD_SIZE") };
    let address = address.ok_or_else(|| missing("MASTER_ADDR"))?;
    let port = port.ok_or_else(|| missing("MASTER_PORT"))?;
    let wrong = || LaunchError::Number {
        variable: "MASTER_PORT",
        expected: "a port from 1 to 65534".into(),
        found: port.clone(),
    };
    let number: u16 = port.parse().map_err(|_| wrong())?;
    // torchrun listens at the port that it names itself.
    let taken = variables("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
    let number = number.checked_add(u16::from(taken)).filter(|number| *number > 0);
    Ok(Some(Master { address, port: number.ok_or_else(wrong)? }))
}

/// A number of at least `least`, and below that of another variable.
fn number(
    variable: &'static str,
    text: &str,
    least: usize,
    below: Option<(usize, &str)>,
) -> Result<usize, LaunchError> {
    let in_range = |n: &usize| *n >= least && below.is_none_or(|(size, _)| *n < size);
    text.trim().parse().ok().filter(in_range).ok_or_else(|| LaunchError::Number {
        variable,
        expected: match below {
            Some((size, name)) => format!("a number below {size} ({name})"),
            None => format!("a number of at least {least}"),
        },
        found: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(launcher: Launcher, variables: &[(&str, &str)]) -> Result<Launch, LaunchError> {
        let value = |name: &str| variables.iter().find(|(n, _)| *n == name);
        Launch::of(launcher, &|name| value(name).map(|(_, text)| (*text).to_owned()))
    }

    fn launch(launcher: Launcher, [rank, local_rank, size]: [usize; 3]) -> Launch {
        Launch { launcher, rank, local_rank, size, master: None }
    }

    /// Variables of several launchers.
    type Given<'a> = &'a [&'a [(&'a str, &'a str)]];

    const STEP: [(&str, &str); 4] = [
        ("SLURM_PROCID", "5"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_NTASKS", "16"),
        ("SLURM_STEP_NUM_TASKS", "8"),
    ];
    /// A shell on a node of Slurm.
    const SHELL: [(&str, &str); 4] = [
        ("SLURM_PROCID", "0"),
        ("SLURM_LOCALID", "0"),
        ("SLURM_NTASKS", "1"),
        ("SLURM_STEP_NUM_TASKS", "1"),
    ];
    const OMPI: [(&str, &str); 3] = [
        ("OMPI_COMM_WORLD_RANK", "3"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ("OMPI_COMM_WORLD_SIZE", "4"),
    ];
    const PMI: [(&str, &str); 2] = [("PMI_RANK", "2"), ("PMI_SIZE", "3")];
    const TORCH: [(&str, &str); 5] = [
        ("RANK", "1"),
        ("LOCAL_RANK", "0"),
        ("WORLD_SIZE", "2"),
        ("MASTER_ADDR", "node1"),
        ("MASTER_PORT", "29500"),
    ];

    #[test]
    fn each_launcher_is_found_by_its_variables() {
        let torch = |port| Launch {
            master: Some(Master { address: "node1".into(), port }),
            ..launch(Launcher::Torchrun, [1, 0, 2])
        };
        let agent = [("TORCHELASTIC_RUN_ID", "x"), ("TORCHELASTIC_USE_AGENT_STORE", "True")];
        let cases: [(Launcher, Given<'_>, Launch); 14] = [
            (Launcher::Auto, &[], Launch::NONE),
            (Launcher::Auto, &[&STEP], launch(Launcher::Slurm, [5, 1, 8])),
            // A batch script, in which srun starts the processes.
            (Launcher::Auto, &[&STEP[..3]], Launch::NONE),
            (Launcher::Slurm, &[&STEP[..3]], launch(Launcher::Slurm, [5, 1, 16])),
            (Launcher::Auto, &[&OMPI], launch(Launcher::Mpi, [3, 1, 4])),
            (Launcher::Auto, &[&PMI], launch(Launcher::Mpi, [2, 2, 3])),
            (Launcher::Mpi, &[&PMI, &STEP], launch(Launcher::Mpi, [2, 2, 3])),
            (Launcher::Auto, &[&TORCH], torch(29500)),
            (Launcher::Auto, &[&TORCH, &STEP, &PMI, &agent], torch(29501)),
            (Launcher::Auto, &[&OMPI, &STEP, &PMI], launch(Launcher::Mpi, [3, 1, 4])),
            (Launcher::None, &[&OMPI, &STEP], Launch::NONE),
            (Launcher::Auto, &[&SHELL], launch(Launcher::Slurm, [0, 0, 1])),
            (Launcher::Auto, &[&SHELL, &PMI], launch(Launcher::Mpi, [2, 2, 3])),
            (Launcher::Auto, &[&SHELL, &TORCH], torch(29500)),
        ];
        for (launcher, variables, expected) in cases {
            assert_eq!(of(launcher, &variables.concat()), Ok(expected), "{launcher} {variables:?}");
        }
        let first = of(Launcher::Auto, &[&STEP[..], &PMI, &TORCH].concat()).unwrap();
        assert_eq!((first.launcher, first.rank, first.size), (Launcher::Slurm, 5, 8));
        // One process needs no address.
        let one = [("RANK", "0"), ("WORLD_SIZE", "1")];
        assert_eq!(of(Launcher::Auto, &one).unwrap().size, 1);
    }

    #[test]
    fn variables_that_contradict_one_another_are_named() {
        let set = |base: &[(&'static str, &'static str)], name: &str, value: &'static str| {
            let of =
                |&(n, v): &(&'static str, &'static str)| (n, if n == name { value } else { v });
            base.iter().map(of).collect::<Vec<_>>()
        };
        let without = |base: &[(&'static str, &'static str)], name: &str| {
            base.iter().copied().filter(|(n, _)| *n != name).collect::<Vec<_>>()
        };
        let cases = [
            (Launcher::Auto, without(&TORCH, "MASTER_ADDR"), "MASTER_ADDR beside WORLD_SIZE"),
            (Launcher::Auto, without(&TORCH, "MASTER_PORT"), "MASTER_PORT beside WORLD_SIZE"),
            (Launcher::Auto, without(&TORCH, "RANK"), "RANK beside WORLD_SIZE"),
            (Launcher::Torchrun, without(&TORCH, "WORLD_SIZE"), "WORLD_SIZE beside RANK"),
            (
                Launcher::Auto,
                set(&TORCH, "RANK", "2"),
                "RANK: expected a number below 2 (WORLD_SIZE), found `2`",
            ),
            (
                Launcher::Auto,
                set(&TORCH, "LOCAL_RANK", "-1"),
                "LOCAL_RANK: expected a number below 2",
            ),
            (Launcher::Auto, set(&TORCH, "MASTER_PORT", "70000"), "MASTER_PORT: expected a port"),
            (Launcher::Auto, set(&TORCH, "MASTER_PORT", "0"), "MASTER_PORT: expected a port"),
            (
                Launcher::Auto,
                set(&OMPI, "OMPI_COMM_WORLD_SIZE", "0"),
                "OMPI_COMM_WORLD_SIZE: expected a number of at least 1, found `0`",
            ),
            (
                Launcher::Auto,
                set(&STEP, "SLURM_PROCID", "x"),
                "SLURM_PROCID: expected a number below 8",
            ),
            (
                Launcher::Slurm,
                OMPI.to_vec(),
                "SLURM_NTASKS, found none; start the processes with srun",
            ),
            (
                Launcher::Mpi,
                STEP.to_vec(),
                "OMPI_COMM_WORLD_SIZE, found none; start the processes with mpirun",
            ),
        ];
        for (launcher, variables, expected) in cases {
            let message = of(launcher, &variables).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn the_first_process_tells_what_all_have_in_common() {
        let tells = |variable, rank: &str| {
            let (expected, found) = (String::new(), String::new());
            let error = LaunchError::Number { variable, expected, found };
            Launch::tells_by(&error, &|name| (name == "RANK").then(|| rank.to_owned()))
        };
        assert!(tells("MASTER_PORT", "0") && !tells("MASTER_PORT", "1"));
        assert!(!tells("WORLD_SIZE", "1") && tells("WORLD_SIZE", "x"));
        assert!(tells("RANK", "2") && tells("LOCAL_RANK", "2"));
    }
}
