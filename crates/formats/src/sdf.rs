//! MDL molfiles and SDF files, V2000 (Dassault Systèmes, "CTFile formats").
//!
//! Every record gives a molecule, with its data fields as properties. Charges are those of the
//! `M  CHG` lines, or those of the atom lines if there are none. Bonds are checked, not kept.
//! Symbols of no element (`R#`, `A`, `Q`, `*`) are element 0. V3000 is refused.

use crate::fault::Fault;
use crate::records::{Line, Lines, Tally, element, records, text};
use crate::spec::{FormatSpec, Read, Several};
use steer3d_volume::molecule::{Atom, Molecule};

pub(crate) const FORMAT: FormatSpec = FormatSpec {
    recognises,
    several: Some(Several::Records),
    ..FormatSpec::new("SDF", &["sdf", "sd", "mol"], Read::Molecules(read))
};

/// Is the fourth line of a file a counts line?
fn recognises(bytes: &[u8]) -> bool {
    let counts = Lines::new(bytes).nth(3).map(|line| line.bytes.trim_ascii_end());
    counts.is_some_and(|line| line.ends_with(b"V2000") || line.ends_with(b"V3000"))
}

/// The molecules of a file, one for each record.
fn read(bytes: &[u8]) -> Result<Vec<Molecule>, Fault> {
    records(bytes, record)
}

fn record(lines: &mut Lines<'_>, tally: &mut Tally) -> Result<Molecule, Fault> {
    let name = lines.expect("the name of a molecule")?;
    lines.expect("the second line of a molecule")?;
    lines.expect("the comment of a molecule")?;
    let counts = lines.expect("a counts line")?;
    let version = counts.columns(34, 39);
    if version != b"V2000" {
        let expected = "a counts line with V2000 in columns 34 to 39 (V3000 is not read)";
        return Err(counts.fault(expected, counts.bytes));
    }
    let atom_count: usize = counts.integer(counts.columns(1, 3), "number of atoms")?;
    let bond_count: usize = counts.integer(counts.columns(4, 6), "number of bonds")?;
    let mut atoms = Vec::new();
    for _ in 0..atom_count {
        let line = lines.expect("an atom line")?;
        tally.push(&mut atoms, atom(line)?, line.number)?;
    }
    for _ in 0..bond_count {
        let line = lines.expect("a bond line")?;
        for (first, last) in [(1, 3), (4, 6)] {
            atom_index(line, line.columns(first, last), atom_count)?;
        }
    }
    properties_block(lines, &mut atoms)?;
    let properties = data_fields(lines)?;
    Ok(Molecule { name: text(name.bytes.trim_ascii()), atoms, cell: None, properties })
}

fn atom(line: Line<'_>) -> Result<Atom, Fault> {
    let symbol = line.columns(32, 34);
    if symbol.is_empty() {
        return Err(line.fault("an element in columns 32 to 34", symbol));
    }
    let charge = match line.columns(37, 39) {
        b"" | b"0" | b"4" => 0.0,
        [code @ b'1'..=b'7'] => 4.0 - f64::from(code - b'0'),
        other => return Err(line.fault("a charge code from 0 to 7 in columns 37 to 39", other)),
    };
    Ok(Atom {
        position: [
            line.coordinate(line.columns(1, 10), "x in columns 1 to 10")?,
            line.coordinate(line.columns(11, 20), "y in columns 11 to 20")?,
            line.coordinate(line.columns(21, 30), "z in columns 21 to 30")?,
        ],
        element: element(symbol).unwrap_or(0),
        name: text(symbol),
        charge,
        ..Atom::default()
    })
}

/// The index, from 0, of an atom that a line names from 1.
fn atom_index(line: Line<'_>, number: &[u8], count: usize) -> Result<usize, Fault> {
    let index: usize = line.integer(number, "number of an atom")?;
    if (1..=count).contains(&index) {
        return Ok(index - 1);
    }
    Err(line.fault(format!("the number of an atom from 1 to {count}"), number))
}

/// Reads up to `M  END` and takes the charges.
fn properties_block(lines: &mut Lines<'_>, atoms: &mut [Atom]) -> Result<(), Fault> {
    let mut first = true;
    loop {
        let line = lines.expect("\"M  END\"")?;
        if line.bytes.starts_with(b"M  END") {
            return Ok(());
        }
        if line.bytes.starts_with(b"$$$$") {
            return Err(line.fault("\"M  END\"", line.bytes));
        }
        if line.bytes.starts_with(b"M  CHG") {
            if std::mem::take(&mut first) {
                atoms.iter_mut().for_each(|atom| atom.charge = 0.0);
            }
            let entries: usize = line.integer(line.columns(7, 9), "number of charges")?;
            for entry in 0..entries.min(line.bytes.len()) {
                let start = 10 + 8 * entry;
                let index = atom_index(line, line.columns(start, start + 3), atoms.len())?;
                atoms[index].charge =
                    f64::from(line.integer::<i8>(line.columns(start + 4, start + 7), "charge")?);
            }
        }
    }
}

/// Reads the data fields up to the end of the record.
fn data_fields(lines: &mut Lines<'_>) -> Result<Vec<(String, String)>, Fault> {
    let mut fields = Vec::new();
    while let Some(line) = lines.next() {
        if line.bytes.starts_with(b"$$$$") {
            break;
        }
        if line.is_blank() {
            continue;
        }
        let Some(header) = line.bytes.strip_prefix(b">") else {
            return Err(line.fault("a data field \"> <NAME>\" or \"$$$$\"", line.bytes));
        };
        let mut values = Vec::new();
        while let Some(value) = lines.peek().filter(|line| !line.is_blank()) {
            if value.bytes.starts_with(b"$$$$") {
                break;
            }
            values.push(text(value.bytes));
            lines.next();
        }
        fields.push((field_name(header), values.join("\n")));
    }
    Ok(fields)
}

/// The name in angle brackets, or the whole header without them.
fn field_name(header: &[u8]) -> String {
    let open = header.iter().position(|&byte| byte == b'<').map(|at| at + 1);
    let close = header.iter().rposition(|&byte| byte == b'>');
    let name = open.zip(close).and_then(|(open, close)| header.get(open..close));
    text(name.unwrap_or(header).trim_ascii())
}
