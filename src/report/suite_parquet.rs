//! The suite's values as a Parquet file, for tools that read columns with their types.

use super::error::write_whole;
use super::{ReportError, SuiteRow};
use parquet::data_type::{BoolType, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::Result;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use std::path::Path;
use std::sync::Arc;

/// A column: what it has of a row.
enum Column {
    Text(fn(&SuiteRow) -> &str),
    Whole(fn(&SuiteRow) -> Option<u64>),
    Truth(fn(&SuiteRow) -> Option<bool>),
    Number(fn(&SuiteRow) -> Option<f64>),
}

use Column::{Number, Text, Truth, Whole};

/// The columns of the table, in its order.
const COLUMNS: [(&str, Column); 18] = [
    ("model", Text(|row| &row.model)),
    ("method", Text(|row| &row.method)),
    ("train_set", Text(|row| &row.train_set)),
    ("train_position", Text(|row| &row.train_position)),
    ("layer", Whole(|row| Some(row.layer as u64))),
    ("seed", Whole(|row| row.seed)),
    ("eval_set", Text(|row| &row.eval_set)),
    ("scaffold", Text(|row| &row.scaffold)),
    ("position", Text(|row| &row.position)),
    ("site", Text(|row| &row.site)),
    ("patched_layers", Text(|row| &row.patched_layers)),
    ("projection", Text(|row| &row.projection)),
    ("compat", Text(|row| &row.compat)),
    ("dtype", Text(|row| &row.dtype)),
    ("weight_processing", Text(|row| &row.weight_processing)),
    ("bos", Truth(|row| row.bos)),
    ("metric", Text(|row| &row.metric)),
    ("percent", Number(|row| row.percent)),
];

impl SuiteRow {
    /// Writes rows as a Parquet file, whole. It needs the feature `parquet`.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write_parquet(rows: &[Self], path: &Path) -> std::result::Result<(), ReportError> {
        let failed = |error| ReportError::Io { path: path.into(), source: std::io::Error::other(error) };
        write_whole(path, &parquet_bytes(rows).map_err(failed)?)
    }
}

fn parquet_bytes(rows: &[SuiteRow]) -> Result<Vec<u8>> {
    let mut schema = "message values {".to_owned();
    for (name, column) in &COLUMNS {
        let kind = match column {
            Text(_) => format!("BYTE_ARRAY {name} (STRING)"),
            Whole(_) => format!("INT64 {name} (INTEGER(64,false))"),
            Truth(_) => format!("BOOLEAN {name}"),
            Number(_) => format!("DOUBLE {name}"),
        };
        schema += &format!(" OPTIONAL {kind};");
    }
    let schema = Arc::new(parse_message_type(&(schema + " }"))?);
    let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::default())?;
    let mut group = file.next_row_group()?;
    for (_, column) in &COLUMNS {
        match column {
            Text(of) => add::<ByteArrayType>(&mut group, rows.iter().map(|row| Some(of(row).into())))?,
            // Unsigned numbers are stored as signed ones of the same bits.
            Whole(of) => add::<Int64Type>(&mut group, rows.iter().map(|row| of(row).map(u64::cast_signed)))?,
            Truth(of) => add::<BoolType>(&mut group, rows.iter().map(of))?,
            Number(of) => add::<DoubleType>(&mut group, rows.iter().map(of))?,
        }
    }
    group.close()?;
    file.into_inner()
}

/// Adds the next column.
fn add<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: impl Iterator<Item = Option<T::T>>,
) -> Result<()> {
    let values: Vec<Option<T::T>> = values.collect();
    let there: Vec<i16> = values.iter().map(|value| value.is_some().into()).collect();
    let values: Vec<T::T> = values.into_iter().flatten().collect();
    let Some(mut column) = group.next_column()? else { return Ok(()) };
    column.typed::<T>().write_batch(&values, Some(&there), None)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;

    #[test]
    fn the_crates_own_reader_finds_the_same_values_of_the_same_types() {
        let row = |layer: usize, seed, bos, percent| SuiteRow {
            model: "demo".into(),
            method: "das".into(),
            train_set: "simple_train".into(),
            train_position: "ADJ".into(),
            layer,
            seed,
            eval_set: "simple_test".into(),
            scaffold: "plain".into(),
            position: "ALL".into(),
            site: "resid".into(),
            patched_layers: "own".into(),
            projection: "none".into(),
            compat: "none".into(),
            dtype: "f32".into(),
            weight_processing: "none".into(),
            bos,
            metric: "logit_diff".into(),
            percent,
        };
        let rows = [row(0, Some(u64::MAX), Some(true), Some(-98.25)), row(11, None, None, None)];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/x.parquet");
        SuiteRow::write_parquet(&rows, &path).unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        let found: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert_eq!(found.len(), 2);
        for (found, row) in found.iter().zip(&rows) {
            let fields = found.get_column_iter().map(|(name, field)| {
                let value = match field {
                    Field::Null => serde_json::Value::Null,
                    Field::Bool(value) => (*value).into(),
                    Field::ULong(value) => (*value).into(),
                    Field::Double(value) => (*value).into(),
                    Field::Str(value) => value.clone().into(),
                    other => panic!("{name}: {other}"),
                };
                (name.clone(), value)
            });
            // The same columns, too, in the same order.
            let fields: Vec<(String, serde_json::Value)> = fields.collect();
            let serde_json::Value::Object(expected) = serde_json::to_value(row).unwrap() else { panic!() };
            assert_eq!(fields, expected.into_iter().collect::<Vec<_>>());
        }
        SuiteRow::write_parquet(&[], &path).unwrap();
        let empty = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(empty.metadata().file_metadata().num_rows(), 0);
    }
}
