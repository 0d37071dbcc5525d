//! Texts in Parquet tables: one text a row, from one column.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;

use crate::error::{Error, Result, open_file};
use crate::plain::MAX_FILE_BYTES;

/// The column that is read where a table has several of text.
const TEXT: &str = "text";

/// Bytes that a row takes beside those of its text: a few bytes of a table can stand for any number of equal rows.
const ROW_BYTES: u64 = size_of::<String>() as u64;

/// The texts of a table, row by row: of its column `text`, or of its only column of texts. A missing value is an empty text.
pub(crate) fn texts(path: &Path) -> Result<Vec<String>> {
    let (file, _) = open_file(path, MAX_FILE_BYTES)?;
    // The reader of a damaged file may panic.
    catch_unwind(AssertUnwindSafe(|| rows(file, path))).unwrap_or_else(|_| Err(damaged(path)))
}

fn damaged(path: &Path) -> Error {
    bad(path, "is damaged", "write or download it again")
}

fn bad(path: &Path, what: impl Into<String>, hint: &str) -> Error {
    Error::file(path, "file.table", what, hint)
}

fn rows(file: std::fs::File, path: &Path) -> Result<Vec<String>> {
    let broken = |_: ParquetError| damaged(path);
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let root = reader.metadata().file_metadata().schema_descr().root_schema();
    let of_text: Vec<_> = root.get_fields().iter().enumerate().filter(|(_, f)| is_text(f)).collect();
    let named: Vec<&str> = of_text.iter().map(|(_, f)| f.name()).collect();
    let (at, field) = match of_text.iter().find(|(_, f)| f.name() == TEXT).or(of_text.first()) {
        Some(found) if found.1.name() == TEXT || of_text.len() == 1 => *found,
        None => return Err(bad(path, "has no column of texts", "write them to a column `text`")),
        Some(_) => {
            let what = format!("has several columns of texts ({})", named.join(", "));
            return Err(bad(path, what, "name the one to read `text`"));
        }
    };
    let too_large = || Error::too_large(path, MAX_FILE_BYTES);
    // Fields before a column may have several leaves.
    let leaf = root.get_fields()[..at].iter().map(|f| leaves(f)).sum::<usize>();
    let mut stated = 0u64;
    for group in reader.metadata().row_groups() {
        let column = group.columns().get(leaf).ok_or_else(|| damaged(path))?;
        if !matches!(column.compression(), Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_)) {
            let codec = column.compression_codec();
            return Err(bad(path, format!("is packed by {codec:?}"), "write it with Snappy, gzip or no compression"));
        }
        stated = stated.saturating_add(u64::try_from(column.uncompressed_size()).unwrap_or(u64::MAX));
        if stated > MAX_FILE_BYTES {
            return Err(too_large());
        }
    }
    let only = Type::group_type_builder(root.name()).with_fields(vec![field.clone()]).build().map_err(broken)?;
    let (mut out, mut left) = (Vec::new(), MAX_FILE_BYTES);
    for row in reader.get_row_iter(Some(only)).map_err(broken)? {
        let text = match row.map_err(broken)?.into_columns().pop() {
            Some((_, Field::Str(text))) => text,
            Some((_, Field::Null)) => String::new(),
            _ => return Err(damaged(path)),
        };
        left = left.checked_sub(text.len() as u64 + ROW_BYTES).ok_or_else(too_large)?;
        out.push(text);
    }
    Ok(out)
}

/// Whether each row has one text there, or none.
fn is_text(field: &Type) -> bool {
    let info = field.get_basic_info();
    field.is_primitive()
        && info.has_repetition()
        && info.repetition() != Repetition::REPEATED
        && (info.converted_type() == ConvertedType::UTF8 || info.logical_type_ref() == Some(&LogicalType::String))
}

fn leaves(field: &Type) -> usize {
    if field.is_primitive() { 1 } else { field.get_fields().iter().map(|f| leaves(f)).sum() }
}
