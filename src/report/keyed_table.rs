//! Tables of results: a CSV file whose first columns say what a row is about, and whose other columns are numbers.

use super::ReportError;
use super::error::{read_table, write_csv};
use std::path::{Path, PathBuf};

/// The columns of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    /// Those that tell rows apart.
    pub keys: &'static [&'static str],
    /// Those that hold numbers; an empty cell is a number that is not defined.
    pub numbers: &'static [&'static str],
}

impl Columns {
    fn all(self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().chain(self.numbers).copied()
    }
}

/// Under which settings a row was computed; empty in tables of version 0.1, which did not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowSettings {
    /// Number format.
    pub dtype: String,
    /// Rewrites of the weights.
    pub weight_processing: String,
    /// Seed of what was drawn at random.
    pub seed: String,
    /// Id of everything that the row was made of.
    pub provenance: String,
}

impl RowSettings {
    /// The columns, behind the numbers.
    const COLUMNS: [&'static str; 4] = ["dtype", "weight_processing", "seed", "provenance"];

    fn cells(&self) -> [&String; 4] {
        [&self.dtype, &self.weight_processing, &self.seed, &self.provenance]
    }

    fn of_cells<'a>(mut cells: impl Iterator<Item = &'a str>) -> Self {
        let mut next = || cells.next().unwrap_or_default().to_owned();
        Self { dtype: next(), weight_processing: next(), seed: next(), provenance: next() }
    }

    /// Do rows of the same keys stand in each other's place? Rows of different settings stand side by side, but nobody
    /// knows where those without any belong.
    fn in_place_of(&self, other: &Self) -> bool {
        *other == Self::default() || self.cells()[..3] == other.cells()[..3]
    }
}

/// A row: its keys, its numbers, and its settings.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyedRow {
    /// One per key column.
    pub keys: Vec<String>,
    /// One per number column; none where it is not defined.
    pub numbers: Vec<Option<f64>>,
    /// Under which they were computed.
    pub settings: RowSettings,
}

impl KeyedRow {
    /// A row of settings that are still to be filled in.
    pub fn new(keys: Vec<String>, numbers: Vec<Option<f64>>) -> Self {
        Self { keys, numbers, settings: RowSettings::default() }
    }

    /// The number in a column by name; none where there is no such column, or it is not defined.
    pub fn number(&self, columns: Columns, name: &str) -> Option<f64> {
        let column = columns.numbers.iter().position(|column| *column == name)?;
        self.numbers.get(column).copied().flatten()
    }

    /// The row as JSON, under the names of the columns.
    pub fn as_json(&self, columns: Columns) -> serde_json::Value {
        let keys = columns.keys.iter().zip(&self.keys).map(|(name, key)| ((*name).to_owned(), key.clone().into()));
        let numbers = columns.numbers.iter().zip(&self.numbers);
        let numbers = numbers.map(|(name, number)| ((*name).to_owned(), serde_json::json!(number)));
        let setting = |(name, cell): (&&str, &String)| {
            let value = match cell.parse::<u64>() {
                Ok(seed) if *name == "seed" => seed.into(),
                _ if cell.is_empty() => serde_json::Value::Null,
                _ => cell.clone().into(),
            };
            ((*name).to_owned(), value)
        };
        let settings = RowSettings::COLUMNS.iter().zip(self.settings.cells()).map(setting);
        serde_json::Value::Object(keys.chain(numbers).chain(settings).collect())
    }
}

/// The file.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyedTable {
    path: PathBuf,
    columns: Columns,
    rows: Vec<KeyedRow>,
}

impl KeyedTable {
    /// Reads the file; no file is an empty one.
    ///
    /// # Errors
    /// [`ReportError`] for a file that cannot be read, other columns, a cell that is no finite number.
    pub fn read(path: &Path, columns: Columns) -> Result<Self, ReportError> {
        let mut table = Self { path: path.into(), columns, rows: Vec::new() };
        if !path.exists() {
            return Ok(table);
        }
        let content = |field: String, expected: String, found: String| ReportError::Content {
            path: path.into(),
            field,
            expected,
            found,
        };
        let bytes = read_table(path)?;
        let mut reader = csv::Reader::from_reader(&bytes[..]);
        let wrong = |error: csv::Error| content("file".into(), "rows of equal length".into(), error.to_string());
        let header = reader.headers().map_err(wrong)?.iter().map(str::to_owned).collect::<Vec<_>>();
        let earlier: Vec<&str> = columns.all().collect();
        let expected: Vec<&str> = columns.all().chain(RowSettings::COLUMNS).collect();
        if header != expected && header != earlier {
            return Err(content("header".into(), expected.join(","), header.join(",")));
        }
        for (number, record) in reader.records().enumerate() {
            let record = record.map_err(wrong)?;
            let keys = record.iter().take(columns.keys.len()).map(str::to_owned).collect();
            let value = |(column, text): (usize, &str)| match text.parse::<f64>() {
                _ if text.is_empty() => Ok(None),
                Ok(value) if value.is_finite() => Ok(Some(value)),
                _ => Err(content(
                    format!("line {}, column {}", number + 2, column + 1),
                    "a finite number or nothing".into(),
                    text.into(),
                )),
            };
            let cells = record.iter().enumerate().skip(columns.keys.len()).take(columns.numbers.len());
            let numbers = cells.map(value).collect::<Result<_, _>>()?;
            let settings = RowSettings::of_cells(record.iter().skip(earlier.len()));
            table.rows.push(KeyedRow { keys, numbers, settings });
        }
        Ok(table)
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its columns.
    pub fn columns(&self) -> Columns {
        self.columns
    }

    /// Every row, in the order in which they came.
    pub fn rows(&self) -> &[KeyedRow] {
        &self.rows
    }

    /// The rows that are in the place of one with these settings.
    pub fn under<'a>(&'a self, settings: &'a RowSettings) -> impl Iterator<Item = &'a KeyedRow> {
        self.rows.iter().filter(move |row| settings.in_place_of(&row.settings))
    }

    /// Those of them whose first keys are these.
    pub fn rows_of<'a>(&'a self, keys: &'a [String], settings: &'a RowSettings) -> impl Iterator<Item = &'a KeyedRow> {
        self.under(settings).filter(move |row| row.keys.starts_with(keys))
    }

    /// Puts a row in, in the place of one with the same keys and settings.
    pub fn insert(&mut self, row: KeyedRow) {
        let replaced = |own: &&mut KeyedRow| own.keys == row.keys && row.settings.in_place_of(&own.settings);
        match self.rows.iter_mut().find(replaced) {
            Some(own) => *own = row,
            None => self.rows.push(row),
        }
    }

    /// Writes the file, its cells guarded against spreadsheets or not.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(&self, guard: bool) -> Result<(), ReportError> {
        let header = self.columns.all().chain(RowSettings::COLUMNS).map(str::to_owned).collect();
        let cells = |row: &KeyedRow| -> Vec<String> {
            let numbers = row.numbers.iter().map(|number| number.map_or(String::new(), |number| number.to_string()));
            row.keys.iter().cloned().chain(numbers).chain(row.settings.cells().into_iter().cloned()).collect()
        };
        write_csv(&self.path, std::iter::once(header).chain(self.rows.iter().map(cells)), guard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Columns = Columns { keys: &["what", "where"], numbers: &["count", "percent"] };

    fn row(what: &str, place: &str, percent: Option<f64>) -> KeyedRow {
        KeyedRow::new(vec![what.into(), place.into()], vec![Some(3.0), percent])
    }

    #[test]
    fn rows_are_kept_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        let mut table = KeyedTable::read(&path, COLUMNS).unwrap();
        table.insert(row("a", "b, c", Some(-0.1)));
        table.insert(row("a", "d", None));
        table.write(false).unwrap();
        let mut again = KeyedTable::read(&path, COLUMNS).unwrap();
        assert_eq!(again, table);
        again.insert(row("a", "d", Some(7.0)));
        let any = RowSettings::default();
        assert_eq!(again.rows_of(&["a".into()], &any).count(), 2);
        assert_eq!(again.rows_of(&["a".into(), "d".into()], &any).next().unwrap().numbers[1], Some(7.0));
        let json = again.rows()[0].as_json(COLUMNS);
        assert_eq!((&json["what"], &json["count"], &json["percent"]), (&"a".into(), &3.0.into(), &(-0.1).into()));
    }

    #[test]
    fn rows_of_other_settings_stand_side_by_side() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        // A table of version 0.1.
        std::fs::write(&path, "what,where,count,percent\na,b,1,5\n").unwrap();
        let mut table = KeyedTable::read(&path, COLUMNS).unwrap();
        let settings = |dtype: &str, provenance: &str| RowSettings {
            dtype: dtype.into(),
            weight_processing: "none".into(),
            seed: "0".into(),
            provenance: provenance.into(),
        };
        let with = |settings| KeyedRow { settings, ..row("a", "b", Some(7.0)) };
        table.insert(with(settings("f32", "1")));
        assert_eq!(table.rows().len(), 1, "what says nothing of its settings is replaced");
        table.insert(with(settings("bf16", "2")));
        table.insert(with(settings("f32", "3")));
        table.write(false).unwrap();
        let again = KeyedTable::read(&path, COLUMNS).unwrap();
        assert_eq!(again, table);
        let ids: Vec<&str> = again.rows().iter().map(|row| &*row.settings.provenance).collect();
        assert_eq!(ids, ["3", "2"]);
        assert_eq!(again.under(&settings("bf16", "9")).count(), 1);
        let json = [&again.rows()[0], &row("a", "b", None)].map(|row| row.as_json(COLUMNS));
        assert_eq!(
            (&json[0]["seed"], &json[0]["provenance"], &json[1]["seed"]),
            (&0.into(), &"3".into(), &serde_json::Value::Null)
        );
    }

    #[test]
    fn another_files_columns_and_cells_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        for (text, expected) in [
            (
                "what,count\na,1\n",
                "header: expected what,where,count,percent,dtype,weight_processing,seed,provenance, found what,count",
            ),
            ("what,where,count,percent\na,b,1,x\n", "line 2, column 4: expected a finite number or nothing, found x"),
            ("what,where,count,percent\na,b,1,NaN\n", "line 2, column 4"),
            ("what,where,count,percent\na,b\n", "rows of equal length"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = KeyedTable::read(&path, COLUMNS).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
