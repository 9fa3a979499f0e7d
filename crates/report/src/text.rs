//! Text for a terminal: words, lines and tables, fitted to its width.

use std::fmt;

use comfy_table::{CellAlignment, Table, TableStyle, presets};

/// What a command prints. [`Display`](fmt::Display) writes it in full, [`fitted`](Self::fitted) for a terminal.
#[derive(Clone, Debug, Default)]
pub struct Text {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    /// Lines that may be broken at spaces.
    Words(String),
    /// Lines that stay as they are.
    Lines(String),
    /// A line with a path between two texts.
    Path([String; 3]),
    /// Names and what they stand for.
    Pairs(Vec<[String; 2]>),
    Table(TextTable),
}

#[derive(Clone, Debug)]
struct TextTable {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
    /// How many columns come before the numbers.
    left: usize,
}

impl Text {
    /// With lines that are broken at spaces where the terminal is too narrow.
    #[must_use]
    pub fn words(self, words: impl Into<String>) -> Self {
        self.with(Part::Words(words.into()))
    }

    /// With lines that are never broken.
    #[must_use]
    pub fn lines(self, lines: impl Into<String>) -> Self {
        self.with(Part::Lines(lines.into()))
    }

    /// With a line that has a path between two texts. Where the terminal is too narrow the path is shortened in its middle;
    /// what is still too long is broken at spaces.
    #[must_use]
    pub fn path(
        self,
        before: impl Into<String>,
        path: impl Into<String>,
        after: impl Into<String>,
    ) -> Self {
        self.with(Part::Path([before.into(), path.into(), after.into()]))
    }

    /// With a line for each name and what it stands for, which goes on below its beginning where the terminal is too narrow.
    #[must_use]
    pub fn pairs(self, pairs: impl IntoIterator<Item = [impl Into<String>; 2]>) -> Self {
        self.with(Part::Pairs(pairs.into_iter().map(|pair| pair.map(Into::into)).collect()))
    }

    /// With a table whose columns from `left` on are numbers, aligned to the right. The columns before them name a row;
    /// where all are texts, the first does.
    #[must_use]
    pub fn table(self, headings: &[impl ToString], rows: Vec<Vec<String>>, left: usize) -> Self {
        let headings = headings.iter().map(ToString::to_string).collect();
        self.with(Part::Table(TextTable { headings, rows, left }))
    }

    fn with(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }

    /// With all of another text below.
    pub(crate) fn then(mut self, other: Self) -> Self {
        self.parts.extend(other.parts);
        self
    }

    /// The text in so many columns. Of a table that is wider, the last columns are left out and named below it; where more
    /// than half would be, each row is a block of lines instead.
    pub fn fitted(&self, width: usize) -> String {
        self.written(Some(width))
    }

    fn written(&self, width: Option<usize>) -> String {
        let part = |part: &Part| match (part, width) {
            (Part::Lines(text), _) | (Part::Words(text), None) => text.clone(),
            (Part::Words(text), Some(width)) => wrapped(text, width, INDENT),
            (Part::Path(texts), None) => texts.concat(),
            (Part::Path([before, path, after]), Some(width)) => {
                let path = shortened(path, room(before, after, width));
                wrapped(&format!("{before}{path}{after}"), width, INDENT)
            }
            (Part::Pairs(pairs), width) => in_pairs(pairs, width),
            (Part::Table(table), None) => table.full(),
            (Part::Table(table), Some(width)) => table.fitted(width),
        };
        self.parts.iter().map(part).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written(None))
    }
}

impl TextTable {
    fn full(&self) -> String {
        let style = presets::UTF8_HORIZONTAL_ONLY;
        text_table(style, &self.headings, self.rows.clone(), self.left)
    }

    /// Its first columns.
    fn first(&self, columns: usize) -> String {
        let cut = |row: &Vec<String>| row.iter().take(columns).cloned().collect::<Vec<_>>();
        let rows = self.rows.iter().map(cut).collect();
        Self { headings: cut(&self.headings), rows, left: self.left }.full()
    }

    fn fitted(&self, width: usize) -> String {
        let all = self.headings.len();
        let names = if self.left < all { self.left } else { 1 };
        let enough = names + (all - names).div_ceil(2);
        let fits = |&columns: &usize| {
            let table = self.first(columns);
            table.lines().all(|line| line.chars().count() <= width)
        };
        match (enough..=all).rev().find(fits) {
            Some(columns) if columns == all => self.full(),
            Some(columns) => {
                let left_out = self.headings[columns..].join(", ");
                let note = format!("Left out: {left_out}. A pipe or --wide gives all columns.");
                format!("{}\n{}", self.first(columns), wrapped(&note, width, INDENT))
            }
            None => self.blocks(names),
        }
    }

    /// A block of lines for each row: its name, then a line for each other column; an empty line after each.
    fn blocks(&self, names: usize) -> String {
        let longest = self.headings[names..].iter().map(|h| h.chars().count()).max().unwrap_or(0);
        let block = |row: &Vec<String>| {
            let (name, cells) = row.split_at(names);
            let lines = self.headings[names..].iter().zip(cells);
            let lines = lines.map(|(heading, cell)| {
                let cell = cell.replace('\n', &format!("\n{:longest$}    ", ""));
                format!("\n  {heading:<longest$}  {cell}")
            });
            name.join(", ") + &lines.collect::<String>()
        };
        self.rows.iter().map(block).collect::<Vec<_>>().join("\n\n") + "\n"
    }
}

/// How far lines that go on are set in.
const INDENT: usize = 2;

/// Lines of at most `width` columns where words allow it; those that go on are set in by `indent` more.
fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let mut lines = vec![];
    for line in text.lines() {
        let begin = line.len() - line.trim_start_matches(' ').len();
        let mut current = line[..begin].to_owned();
        for word in line[begin..].split(' ') {
            let length = current.chars().count() + 1 + word.chars().count();
            if length > width && !current.trim().is_empty() {
                let next = format!("{:1$}{word}", "", begin + indent);
                lines.push(std::mem::replace(&mut current, next).trim_end().to_owned());
            } else {
                current += if current.trim().is_empty() { "" } else { " " };
                current += word;
            }
        }
        lines.push(current);
    }
    if text.ends_with('\n') {
        lines.push(String::new());
    }
    lines.join("\n")
}

/// Fewest columns of a path for which a line is not broken.
const SHORT_PATH: usize = 20;

/// How many columns a path may take between two texts: the rest of the line, or half of a line that is broken anyhow.
fn room(before: &str, after: &str, width: usize) -> usize {
    let rest = width.saturating_sub(before.chars().count() + after.chars().count());
    if rest < SHORT_PATH { width / 2 } else { rest }
}

/// A path in so many columns: its beginning, an ellipsis, and twice as much of its end.
fn shortened(path: &str, columns: usize) -> String {
    let all: Vec<char> = path.chars().collect();
    if all.len() <= columns {
        return path.to_owned();
    }
    let kept = columns.saturating_sub(1);
    let (begin, end) = (kept / 3, all.len() - (kept - kept / 3));
    all[..begin].iter().chain(&['…']).chain(&all[end..]).collect()
}

/// A line for each pair, in two columns.
fn in_pairs(pairs: &[[String; 2]], width: Option<usize>) -> String {
    let longest = pairs.iter().map(|[name, _]| name.chars().count()).max().unwrap_or(0);
    let line = |[name, about]: &[String; 2]| {
        let line = format!("{name:<longest$}  {about}");
        width.map_or_else(|| line.clone(), |width| wrapped(&line, width, longest + 2))
    };
    pairs.iter().map(line).collect::<Vec<_>>().join("\n")
}

pub(crate) fn text_table(
    style: TableStyle,
    headings: &[impl ToString],
    rows: Vec<Vec<String>>,
    left: usize,
) -> String {
    let mut table = Table::new();
    table.load_style(style);
    table.set_header(headings.iter().map(ToString::to_string));
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(left) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Text {
        let headings = ["model", "source", "unrotated %", "random %", "AUC", "parameters"];
        let row = |name: &str| {
            [name, "points", "89.6", "86.8", "0.951", "3402"].map(String::from).to_vec()
        };
        Text::default().table(&headings, vec![row("steerable"), row("plain")], 2)
    }

    fn widest(text: &str) -> usize {
        text.lines().map(|line| line.chars().count()).max().unwrap()
    }

    #[test]
    fn a_table_that_fits_is_whole() {
        let full = table().to_string();
        assert_eq!(table().fitted(widest(&full)), full);
        assert!(full.contains("parameters") && !full.contains("Left out"));
    }

    #[test]
    fn columns_that_do_not_fit_are_named() {
        let full = widest(&table().to_string());
        let text = table().fitted(full - 1);
        assert!(widest(&text) < full, "{text}");
        assert!(text.contains("AUC") && text.contains("Left out: parameters."), "{text}");
    }

    #[test]
    fn a_narrow_terminal_gets_a_block_for_each_row() {
        let text = table().fitted(35);
        assert!(widest(&text) <= 35, "{text}");
        let block = "steerable, points\n  unrotated %  89.6\n  random %     86.8\n  AUC          0.951\n  parameters   3402";
        assert!(text.starts_with(block), "{text}");
        assert!(text.contains("\n\nplain, points\n"), "{text}");
    }

    #[test]
    fn words_are_broken_at_spaces_and_lines_are_not() {
        let text = Text::default().words("- one two three four").lines("a long line of data");
        assert_eq!(text.fitted(10), "- one two\n  three\n  four\na long line of data");
        assert_eq!(text.to_string(), "- one two three four\na long line of data");
        let text = Text::default().words("  a  b\n  one two three");
        assert_eq!(text.fitted(10), "  a  b\n  one two\n    three");
    }

    #[test]
    fn a_path_is_shortened_in_its_middle_before_a_line_is_broken() {
        let path = "data/structures/of/many/proteins/1abc.pdb";
        let text = Text::default().path("alpha 98 %  ", path, "");
        assert_eq!(text.to_string(), format!("alpha 98 %  {path}"));
        assert_eq!(text.fitted(53), text.to_string());
        assert_eq!(text.fitted(37), "alpha 98 %  data/str…roteins/1abc.pdb");
        let text = Text::default().path("", path, ": warning: unlike the training data");
        assert_eq!(text.fitted(40), "data/s…eins/1abc.pdb: warning: unlike\n  the training data");
    }

    #[test]
    fn what_a_name_stands_for_goes_on_below_its_beginning() {
        let text = Text::default().pairs([["a", "one two three"], ["long", "four"]]);
        assert_eq!(text.to_string(), "a     one two three\nlong  four");
        assert_eq!(text.fitted(14), "a     one two\n      three\nlong  four");
    }
}
