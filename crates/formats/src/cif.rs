//! mmCIF and small-molecule CIF
//! (syntax: <https://www.iucr.org/resources/cif/spec/version1.1/cifsyntax>).
//!
//! - Atoms are those of `_atom_site`, in a loop or as single items; other categories are passed
//!   over, and so are save frames. Every `data_` block with atoms gives a molecule, or one for each
//!   model number.
//! - A block without them may be a chemical component (`_chem_comp_atom`), as in the dictionary of
//!   the PDB or a library of monomers. It gives a model for each set of coordinates that it has for
//!   all atoms: `x, y, z`, `model_Cartn_*` and `pdbx_model_Cartn_*_ideal`, in this order.
//! - The element is that of `type_symbol`. Without one it is that of the name in a standard residue, of
//!   an ion (which has the name of its residue), or of a label that is a symbol and a number (`Fe1`);
//!   `CA1`, which may be a carbon, is element 0.
//! - Names and numbers are the authors' (`auth_*`) where the file has them, else `label_*`.
//! - Fractional coordinates are placed by [`Cell::cartesian`]; symmetry is not applied, so that
//!   the atoms are those of the asymmetric unit. Uncertainties such as `0.1234(5)` are dropped.
//! - The alternate location of a small-molecule CIF is the last character of its disorder group.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use crate::fault::{Fault, Place};
use crate::records::{
    Tally, cut, element, element_in_residue, element_of_label, parsed, show, text,
};
use crate::spec::{FormatSpec, Read, Several};
use steer3d_volume::molecule::{Atom, Cell, Molecule};
use steer3d_volume::volume::is_length;

pub(crate) const FORMAT: FormatSpec = FormatSpec {
    recognises,
    several: Some(Several::Models),
    ..FormatSpec::new("mmCIF", &["cif", "mmcif"], Read::Molecules(read))
};

/// Most tags of a loop, and items of atoms of a block.
const MAX_TAGS: usize = 1 << 12;

/// Is the first thing of a file a data block?
fn recognises(bytes: &[u8]) -> bool {
    matches!(Tokens::new(bytes).next(), Ok(Some(Token::Data(_))))
}

/// The molecules of a file: one for each block and model.
fn read(bytes: &[u8]) -> Result<Vec<Molecule>, Fault> {
    let mut tokens = Tokens::new(bytes);
    let (mut molecules, mut tally) = (Vec::new(), Tally::new()?);
    let (mut block, mut in_frame) = (None, false);
    while let Some(token) = tokens.next()? {
        let Some(current) = block.as_mut() else {
            let Token::Data(name) = token else {
                return Err(tokens.fault("a data_ block", &token));
            };
            block = Some(Block::new(name));
            continue;
        };
        match token {
            Token::Data(name) if !in_frame => {
                let before = std::mem::replace(current, Block::new(name));
                before.finish(&mut molecules, &mut tally)?;
            }
            Token::Save(name) if name.is_empty() == in_frame => in_frame = !in_frame,
            Token::Loop => {
                read_loop(&mut tokens, Some(current).filter(|_| !in_frame), &mut tally)?;
            }
            Token::Tag(tag) => {
                let value = tokens.value(&tag)?;
                if !in_frame {
                    current.item(tag, value)?;
                }
            }
            Token::Data(_) | Token::Save(_) | Token::Value(_) => {
                let end = if in_frame { "save_" } else { "data_" };
                return Err(tokens.fault(&format!("a tag, loop_ or {end}"), &token));
            }
        }
    }
    if in_frame {
        return Err(Fault::new(Place::Line(tokens.line), "save_", "the end of the file"));
    }
    if let Some(block) = block {
        block.finish(&mut molecules, &mut tally)?;
    }
    if molecules.is_empty() {
        let expected = "atoms with _atom_site.Cartn_x, y, z, _atom_site_fract_x, y, z or coordinates \
                        of _chem_comp_atom";
        return Err(Fault::new(Place::Whole, expected, "no such atoms"));
    }
    Ok(molecules)
}

/// Reads a loop, into `block` unless it is of a save frame.
fn read_loop<'a>(
    tokens: &mut Tokens<'a>,
    mut block: Option<&mut Block<'a>>,
    tally: &mut Tally,
) -> Result<(), Fault> {
    let line = tokens.line;
    let mut tags = Vec::new();
    while let Some(Token::Tag(_)) = tokens.peek()? {
        let Some(Token::Tag(tag)) = tokens.next()? else { break };
        check_tags(tags.len(), tokens.line)?;
        tags.push(tag);
    }
    if tags.is_empty() {
        return Err(Fault::new(Place::Line(line), "a tag after loop_", "none"));
    }
    let layout = Layout::new(&tags);
    let mut row = Vec::new();
    while let Some(Token::Value(value)) = tokens.peek()? {
        tokens.next()?;
        row.push(value);
        if row.len() == tags.len() {
            if let Some(block) = &mut block {
                block.row(&layout, &row, tally)?;
            }
            row.clear();
        }
    }
    if row.is_empty() {
        return Ok(());
    }
    let expected = format!("{} values in each row of the loop of line {line}", tags.len());
    Err(Fault::new(Place::Line(tokens.line), expected, format!("{} in the last", row.len())))
}

fn check_tags(count: usize, line: usize) -> Result<(), Fault> {
    if count < MAX_TAGS {
        return Ok(());
    }
    Err(Fault::new(Place::Line(line), format!("at most {MAX_TAGS} tags"), "more"))
}

/// A data block.
struct Block<'a> {
    name: String,
    lengths: [Option<f64>; 3],
    angles: [f64; 3],
    items: Vec<(String, Value<'a>)>,
    models: BTreeMap<i64, Vec<Atom>>,
    fractional: bool,
    atoms: usize,
    line: usize,
    /// The atoms of a component by their set of coordinates, `None` where it lacks some.
    component: [Option<Vec<Atom>>; 3],
}

impl<'a> Block<'a> {
    fn new(name: &[u8]) -> Self {
        Self {
            name: cut(&text(name)),
            lengths: [None; 3],
            angles: [90.0; 3],
            items: Vec::new(),
            models: BTreeMap::new(),
            fractional: false,
            atoms: 0,
            line: 0,
            component: [const { Some(Vec::new()) }; 3],
        }
    }

    fn item(&mut self, tag: String, value: Value<'a>) -> Result<(), Fault> {
        const LENGTHS: [&str; 3] = ["_cell_length_a", "_cell_length_b", "_cell_length_c"];
        const ANGLES: [&str; 3] = ["_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma"];
        if value.is_null() {
            return Ok(());
        }
        if let Some(axis) = LENGTHS.iter().position(|name| *name == tag) {
            self.lengths[axis] = Some(value.number(&tag)?);
        } else if let Some(axis) = ANGLES.iter().position(|name| *name == tag) {
            self.angles[axis] = value.number(&tag)?;
        } else if tag == "_struct_title" {
            let title = text(value.bytes);
            self.name = cut(&title.split_whitespace().collect::<Vec<_>>().join(" "));
        } else if tag.starts_with("_atom_site_") || tag.starts_with("_chem_comp_atom_") {
            check_tags(self.items.len(), value.line)?;
            self.items.push((tag, value));
        }
        Ok(())
    }

    /// Takes the atoms of a row of values.
    fn row(&mut self, layout: &Layout, row: &[Value<'a>], tally: &mut Tally) -> Result<(), Fault> {
        if let Some(columns) = &layout.site {
            self.atom(columns, row, tally)?;
        }
        for (columns, atoms) in layout.component.iter().zip(&mut self.component) {
            let Some(columns) = columns else { continue };
            if columns.position.iter().any(|&at| row[at].is_null()) {
                *atoms = None;
            }
            if let Some(atoms) = atoms {
                self.line = row[0].line;
                tally.push(atoms, columns.atom(row)?.0, row[0].line)?;
            }
        }
        Ok(())
    }

    fn atom(
        &mut self,
        columns: &Columns,
        row: &[Value<'a>],
        tally: &mut Tally,
    ) -> Result<(), Fault> {
        let line = row[0].line;
        if self.atoms > 0 && self.fractional != columns.fractional {
            let expected = "the coordinates of all atoms of a block of one kind";
            let found = "Cartesian and fractional coordinates";
            return Err(Fault::new(Place::Line(line), expected, found));
        }
        let (atom, model) = columns.atom(row)?;
        tally.push(self.models.entry(model).or_default(), atom, line)?;
        self.atoms += 1;
        self.fractional = columns.fractional;
        self.line = line;
        Ok(())
    }

    fn finish(mut self, molecules: &mut Vec<Molecule>, tally: &mut Tally) -> Result<(), Fault> {
        let (tags, row): (Vec<_>, Vec<_>) = std::mem::take(&mut self.items).into_iter().unzip();
        if !tags.is_empty() {
            self.row(&Layout::new(&tags), &row, tally)?;
        }
        if self.atoms == 0 {
            let sets = std::mem::take(&mut self.component).into_iter().flatten();
            self.models = (1..).zip(sets.filter(|atoms| !atoms.is_empty())).collect();
            self.lengths = [None; 3];
        }
        let cell = self.cell()?;
        let name = self.name;
        for (_, mut atoms) in self.models {
            atoms.shrink_to_fit();
            if let Some(cell) = cell.filter(|_| self.fractional) {
                for atom in &mut atoms {
                    atom.position = cell.cartesian(atom.position);
                }
            }
            check_positions(&atoms, self.line)?;
            molecules.push(Molecule { name: name.clone(), atoms, cell, ..Molecule::default() });
        }
        Ok(())
    }

    /// The cell; none where there is no crystal, which mmCIF shows by edges of 1 Å.
    fn cell(&self) -> Result<Option<Cell>, Fault> {
        let wrong =
            |found| Fault::new(Place::Line(self.line), "a unit cell for the atoms above", found);
        match self.lengths {
            [Some(a), Some(b), Some(c)] => {
                let edges = [a, b, c];
                if !self.fractional && edges.iter().all(|edge| (0.0..=1.0).contains(edge)) {
                    return Ok(None);
                }
                Cell::new(edges, self.angles).map(Some).map_err(|error| wrong(error.to_string()))
            }
            _ if self.fractional => {
                Err(wrong("fractional coordinates without _cell_length".into()))
            }
            _ => Ok(None),
        }
    }
}

fn check_positions(atoms: &[Atom], line: usize) -> Result<(), Fault> {
    if atoms.iter().flat_map(|atom| atom.position).all(is_length) {
        return Ok(());
    }
    let expected = "coordinates from -1e30 to 1e30 for the atoms above";
    Err(Fault::new(Place::Line(line), expected, "one beyond them"))
}

/// Where atoms stand in the rows of a loop.
struct Layout {
    site: Option<Columns>,
    /// By the sets of coordinates of a component.
    component: [Option<Columns>; 3],
}

impl Layout {
    fn new(tags: &[String]) -> Self {
        const SETS: [[&str; 3]; 3] = [
            ["x", "y", "z"],
            ["model_cartn_x", "model_cartn_y", "model_cartn_z"],
            ["pdbx_model_cartn_x_ideal", "pdbx_model_cartn_y_ideal", "pdbx_model_cartn_z_ideal"],
        ];
        Self {
            site: Columns::of_sites(tags),
            component: SETS.map(|names| Columns::of_component(tags, names)),
        }
    }
}

/// Where the items of an atom stand in a row.
#[derive(Default)]
struct Columns {
    fractional: bool,
    position: [usize; 3],
    symbol: Option<usize>,
    name: [Option<usize>; 3],
    residue: [Option<usize>; 2],
    number: [Option<usize>; 2],
    chain: [Option<usize>; 2],
    insertion: Option<usize>,
    alternate: [Option<usize>; 2],
    group: Option<usize>,
    occupancy: Option<usize>,
    b_factor: Option<usize>,
    u_factor: Option<usize>,
    charge: Option<usize>,
    model: Option<usize>,
}

impl Columns {
    /// The columns of the atoms of a component with one set of coordinates.
    fn of_component(tags: &[String], coordinates: [&str; 3]) -> Option<Self> {
        let at = |name: &str| {
            tags.iter().position(|tag| tag.strip_prefix("_chem_comp_atom_") == Some(name))
        };
        let [x, y, z] = coordinates.map(at);
        Some(Self {
            position: [x?, y?, z?],
            symbol: at("type_symbol"),
            name: [at("atom_id"), None, None],
            residue: [at("comp_id"), None],
            charge: at("charge"),
            ..Self::default()
        })
    }

    /// The columns of atoms; `None` if there are no positions of atoms.
    fn of_sites(tags: &[String]) -> Option<Self> {
        let at =
            |name: &str| tags.iter().position(|tag| tag.strip_prefix("_atom_site_") == Some(name));
        let all = |names: [&str; 3]| -> Option<[usize; 3]> {
            Some([at(names[0])?, at(names[1])?, at(names[2])?])
        };
        let cartesian = all(["cartn_x", "cartn_y", "cartn_z"]);
        Some(Self {
            fractional: cartesian.is_none(),
            position: cartesian.or_else(|| all(["fract_x", "fract_y", "fract_z"]))?,
            symbol: at("type_symbol"),
            name: [at("auth_atom_id"), at("label_atom_id"), at("label")],
            residue: [at("auth_comp_id"), at("label_comp_id")],
            number: [at("auth_seq_id"), at("label_seq_id")],
            chain: [at("auth_asym_id"), at("label_asym_id")],
            insertion: at("pdbx_pdb_ins_code"),
            alternate: [at("label_alt_id"), at("disorder_group")],
            group: at("group_pdb"),
            occupancy: at("occupancy"),
            b_factor: at("b_iso_or_equiv"),
            u_factor: at("u_iso_or_equiv"),
            charge: at("pdbx_formal_charge"),
            model: at("pdbx_pdb_model_num"),
        })
    }

    /// The atom of a row and its model number.
    fn atom(&self, row: &[Value<'_>]) -> Result<(Atom, i64), Fault> {
        let get = |column: Option<usize>| column.map(|i| row[i]).filter(|value| !value.is_null());
        let first = |columns: &[Option<usize>]| columns.iter().find_map(|&column| get(column));
        let string = |columns: &[Option<usize>]| first(columns).map(|v| text(v.bytes));
        let number = |column, what, default| {
            get(column).map_or(Ok(default), |value: Value<'_>| value.number(what))
        };
        let [x, y, z] = self.position;
        let name = string(&self.name).unwrap_or_default();
        let symbol = get(self.symbol).map_or(&[][..], |value| value.bytes);
        let residue = string(&self.residue).unwrap_or_default();
        let (mut element, mut charge) = symbol_and_charge(symbol);
        if symbol.is_empty() {
            let name = name.as_bytes();
            element = element_in_residue(name, residue.as_bytes())
                .unwrap_or_else(|| element_of_label(name));
        }
        if let Some(value) = get(self.charge) {
            charge = value.number("formal charge")?;
        }
        let u = number(self.u_factor, "U_iso_or_equiv", 0.0)?;
        let letter = first(&self.alternate).map(Value::last_character).transpose()?;
        let atom = Atom {
            position: [
                row[x].number("x of an atom")?,
                row[y].number("y of an atom")?,
                row[z].number("z of an atom")?,
            ],
            element,
            name,
            residue,
            residue_number: first(&self.number)
                .map_or(Ok(0), |value| value.integer("residue number"))?,
            insertion: get(self.insertion).map(Value::last_character).transpose()?,
            chain: string(&self.chain).unwrap_or_default(),
            alternate: letter,
            hetero: get(self.group).is_some_and(|v| v.bytes.eq_ignore_ascii_case(b"HETATM")),
            occupancy: number(self.occupancy, "occupancy", 1.0)?,
            b_factor: number(self.b_factor, "B_iso_or_equiv", 8.0 * PI * PI * u)?,
            charge,
        };
        Ok((atom, get(self.model).map_or(Ok(1), |value| value.integer("model number"))?))
    }
}

/// Element and charge of a type symbol such as `C`, `Fe3+` or `O1-`.
fn symbol_and_charge(symbol: &[u8]) -> (u8, f64) {
    let letters = symbol.iter().position(|b| !b.is_ascii_alphabetic()).unwrap_or(symbol.len());
    let charge = match &symbol[letters..] {
        [digit @ b'0'..=b'9', b'+'] => f64::from(digit - b'0'),
        [digit @ b'0'..=b'9', b'-'] => -f64::from(digit - b'0'),
        b"+" => 1.0,
        b"-" => -1.0,
        _ => 0.0,
    };
    (element(&symbol[..letters]).unwrap_or(0), charge)
}

/// A value and the line on which it begins.
#[derive(Clone, Copy)]
struct Value<'a> {
    bytes: &'a [u8],
    quoted: bool,
    line: usize,
}

impl Value<'_> {
    fn is_null(self) -> bool {
        !self.quoted && matches!(self.bytes, b"." | b"?")
    }

    fn fault(self, expected: String) -> Fault {
        Fault::new(Place::Line(self.line), expected, show(self.bytes))
    }

    /// A finite number, without its uncertainty.
    fn number(self, what: &str) -> Result<f64, Fault> {
        let whole = self.bytes;
        let bare = whole.strip_suffix(b")").and_then(|rest| {
            let open = rest.iter().position(|&byte| byte == b'(')?;
            let digits = &rest[open + 1..];
            (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit)).then(|| &rest[..open])
        });
        let number = parsed(bare.unwrap_or(whole)).filter(|number: &f64| number.is_finite());
        number.ok_or_else(|| self.fault(format!("a finite number as {what}")))
    }

    fn integer<T: std::str::FromStr>(self, what: &str) -> Result<T, Fault> {
        parsed(self.bytes).ok_or_else(|| self.fault(format!("a whole number as {what}")))
    }

    fn last_character(self) -> Result<char, Fault> {
        let last = text(self.bytes).chars().next_back();
        last.ok_or_else(|| self.fault("a character".to_owned()))
    }
}

#[derive(Clone)]
enum Token<'a> {
    Data(&'a [u8]),
    /// The beginning of a save frame, or without a name the end of one.
    Save(&'a [u8]),
    Loop,
    /// In lower case, `.` as `_`, so that the names of both dictionaries agree.
    Tag(String),
    Value(Value<'a>),
}

/// The tokens of a file.
struct Tokens<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
    peeked: Option<Option<Token<'a>>>,
}

impl<'a> Tokens<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, line: 1, peeked: None }
    }

    fn fault(&self, expected: &str, found: &Token<'_>) -> Fault {
        let found = match found {
            Token::Data(name) => format!("data_{}", name.escape_ascii()),
            Token::Save(name) => format!("save_{}", name.escape_ascii()),
            Token::Loop => "loop_".to_owned(),
            Token::Tag(tag) => show(tag.as_bytes()),
            Token::Value(value) => show(value.bytes),
        };
        Fault::new(Place::Line(self.line), expected, found)
    }

    fn peek(&mut self) -> Result<Option<Token<'a>>, Fault> {
        if self.peeked.is_none() {
            self.peeked = Some(self.scan()?);
        }
        Ok(self.peeked.clone().flatten())
    }

    fn next(&mut self) -> Result<Option<Token<'a>>, Fault> {
        self.peeked.take().map_or_else(|| self.scan(), Ok)
    }

    /// The value that must follow a tag.
    fn value(&mut self, tag: &str) -> Result<Value<'a>, Fault> {
        let line = self.line;
        match self.next()? {
            Some(Token::Value(value)) => Ok(value),
            Some(other) => Err(self.fault(&format!("a value of {tag}"), &other)),
            None => {
                let expected = format!("a value of {tag}");
                Err(Fault::new(Place::Line(line), expected, "the end of the file"))
            }
        }
    }

    fn scan(&mut self) -> Result<Option<Token<'a>>, Fault> {
        self.skip_blanks();
        let rest = &self.bytes[self.at..];
        let starts_line = self.at == 0 || self.bytes[self.at - 1] == b'\n';
        match rest.first() {
            None => Ok(None),
            Some(b';') if starts_line => self.text_field().map(Token::Value).map(Some),
            Some(&quote @ (b'\'' | b'"')) => self.quoted(quote).map(Token::Value).map(Some),
            Some(_) => self.word().map(Some),
        }
    }

    /// Passes over white space and comments.
    fn skip_blanks(&mut self) {
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'\n' => self.line += 1,
                b'#' => {
                    let rest = &self.bytes[self.at..];
                    self.at += rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
                    continue;
                }
                _ if byte.is_ascii_whitespace() => (),
                _ => break,
            }
            self.at += 1;
        }
    }

    /// Text between lines that begin with a semicolon.
    fn text_field(&mut self) -> Result<Value<'a>, Fault> {
        let (start, line) = (self.at + 1, self.line);
        let end = self.bytes[start..].windows(2).position(|pair| pair == b"\n;");
        let Some(length) = end else {
            let expected = "a line that begins with ; and ends the text field";
            return Err(Fault::new(Place::Line(line), expected, "the end of the file"));
        };
        let bytes = &self.bytes[start..start + length];
        self.line += 1 + bytes.iter().filter(|&&byte| byte == b'\n').count();
        self.at = start + length + 2;
        Ok(Value { bytes, quoted: true, line })
    }

    /// Text up to the same quote before white space.
    fn quoted(&mut self, quote: u8) -> Result<Value<'a>, Fault> {
        let rest = &self.bytes[self.at + 1..];
        let closes =
            |i: usize| rest[i] == quote && rest.get(i + 1).is_none_or(u8::is_ascii_whitespace);
        let end = (0..rest.len()).find(|&i| rest[i] == b'\n' || closes(i));
        let Some(length) = end.filter(|&i| rest[i] == quote) else {
            let expected = format!("a closing {} on the line", char::from(quote));
            let line = &rest[..end.unwrap_or(rest.len())];
            return Err(Fault::new(Place::Line(self.line), expected, show(line)));
        };
        self.at += length + 2;
        Ok(Value { bytes: &rest[..length], quoted: true, line: self.line })
    }

    fn word(&mut self) -> Result<Token<'a>, Fault> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
        let word = &rest[..length];
        self.at += length;
        let begins = |name: &[u8]| {
            word.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
        };
        if begins(b"data_") {
            return Ok(Token::Data(&word[5..]));
        }
        if word.eq_ignore_ascii_case(b"loop_") {
            return Ok(Token::Loop);
        }
        if begins(b"save_") {
            return Ok(Token::Save(&word[5..]));
        }
        if begins(b"global_") || begins(b"stop_") {
            let expected = "a data file without global_ or stop_";
            return Err(Fault::new(Place::Line(self.line), expected, show(word)));
        }
        if word[0] == b'_' {
            return Ok(Token::Tag(text(word).to_ascii_lowercase().replace('.', "_")));
        }
        Ok(Token::Value(Value { bytes: word, quoted: false, line: self.line }))
    }
}
