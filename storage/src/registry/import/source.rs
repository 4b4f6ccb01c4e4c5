//! The body as rows: CSV or JSON, read chunk by chunk on a thread of its own.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, Read};
use std::rc::Rc;

use bytes::{Buf as _, Bytes};
use serde::de::{Deserialize as _, DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::Value;
use tokio::sync::mpsc;

use super::columns::{Cells, Row, is_column};
use super::{BATCH, Found, ImportError, ImportFormat, LineError};

/// Bytes of one row at most: an open quote must not swallow the whole body.
const ROW_SIZE_MAX: usize = 64 * 1024;

/// Reads the body to its end, or until nobody listens any more.
pub(super) fn read(format: ImportFormat, chunks: VecDeque<Bytes>, sender: &mpsc::Sender<Found>) {
    let progress = Rc::new(Progress { line: Cell::new(1), since_row: Cell::new(0) });
    let body = Body { chunks, progress: Rc::clone(&progress) };
    let mut rows = Rows { sender, batch: Vec::with_capacity(BATCH), count: 0 };
    let done = match format {
        ImportFormat::Csv => read_csv(body, &progress, &mut rows),
        ImportFormat::Json => read_json(body, &progress, &mut rows),
    };
    match done {
        Ok(()) => {
            // Nobody listens when the import was given up; then nothing is left to say.
            let _gone = rows.flush();
        }
        Err(Stop::Gone) => {}
        Err(Stop::Broken(error)) => {
            let _gone = rows.flush().and_then(|()| rows.send(Found::Broken(error)));
        }
    }
}

enum Stop {
    /// The loader gave up.
    Gone,
    /// The body cannot be read on.
    Broken(ImportError),
}

/// Rows on their way to the loader.
struct Rows<'a> {
    sender: &'a mpsc::Sender<Found>,
    batch: Vec<Row>,
    count: u64,
}

impl Rows<'_> {
    fn send(&self, found: Found) -> Result<(), Stop> {
        self.sender.blocking_send(found).map_err(|_| Stop::Gone)
    }

    fn flush(&mut self) -> Result<(), Stop> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
        self.send(Found::Rows(batch))
    }

    fn push(&mut self, row: Row) -> Result<(), Stop> {
        self.batch.push(row);
        if self.batch.len() < BATCH { Ok(()) } else { self.flush() }
    }

    fn bad(&self, line: u64, row: u64, problem: String, hint: &str) -> Result<(), Stop> {
        let (column, hint) = (String::new(), hint.to_owned());
        self.send(Found::Bad(LineError { line, row, column, problem, hint }))
    }
}

/// How far the body was read; the parser owns the body, so this is shared with it.
struct Progress {
    line: Cell<u64>,
    since_row: Cell<usize>,
}

/// The chunks of the body as a reader that counts lines and frees what was read.
struct Body {
    chunks: VecDeque<Bytes>,
    progress: Rc<Progress>,
}

impl Read for Body {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.progress.since_row.get() > ROW_SIZE_MAX {
            let text = format!("a row is longer than {ROW_SIZE_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        while self.chunks.front().is_some_and(Bytes::is_empty) {
            self.chunks.pop_front();
        }
        let Some(chunk) = self.chunks.front_mut() else { return Ok(0) };
        let size = out.len().min(chunk.len());
        chunk.copy_to_slice(&mut out[..size]);
        let lines = out[..size].iter().filter(|&&byte| byte == b'\n').count();
        self.progress.line.set(self.progress.line.get() + u64::try_from(lines).unwrap_or(0));
        self.progress.since_row.set(self.progress.since_row.get() + size);
        Ok(size)
    }
}

/// A syntax error that ends the reading, or the body's own failure.
fn broken(line: u64, row: u64, error: io::Error) -> Stop {
    if error.kind() != io::ErrorKind::InvalidData {
        return Stop::Broken(ImportError::Body(error));
    }
    let hint = "look for a quote or a bracket that is not closed".to_owned();
    let error = LineError { line, row, column: String::new(), problem: error.to_string(), hint };
    Stop::Broken(ImportError::Lines { errors: vec![error], total: 1, rows: row })
}

fn read_csv(body: Body, progress: &Progress, rows: &mut Rows<'_>) -> Result<(), Stop> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(body);
    let headers = match reader.headers() {
        Ok(headers) => headers.clone(),
        Err(error) => return Err(csv_broken(1, 0, error)),
    };
    let mut seen = Vec::new();
    for header in &headers {
        // A byte order mark is not part of the first name.
        let header = header.trim_start_matches('\u{feff}');
        let problem = if !is_column(header) {
            format!("{header:?} is no column of this import")
        } else if seen.contains(&header) {
            format!("{header:?} stands twice")
        } else {
            seen.push(header);
            continue;
        };
        rows.bad(1, 0, problem, "use the header line of the template")?;
    }
    if seen.len() != headers.len() {
        return Ok(());
    }
    let mut record = csv::StringRecord::new();
    loop {
        progress.since_row.set(0);
        let line = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                rows.count += 1;
                let line = record.position().map_or(line, csv::Position::line);
                let cells = Cells(seen.iter().copied().zip(record.iter()).collect());
                rows.push(Row::read(line, rows.count, &cells))?;
            }
            Err(error) => match csv_problem(&error) {
                Some((line, problem, hint)) => {
                    rows.count += 1;
                    rows.bad(line, rows.count, problem, hint)?;
                }
                None => return Err(csv_broken(line, rows.count + 1, error)),
            },
        }
    }
}

/// What is wrong with one record, when reading can go on behind it.
fn csv_problem(error: &csv::Error) -> Option<(u64, String, &'static str)> {
    let line = error.position().map_or(0, csv::Position::line);
    if let csv::ErrorKind::UnequalLengths { expected_len, len, .. } = error.kind() {
        let problem = format!("{len} fields, the header has {expected_len}");
        return Some((line, problem, "leave a field empty rather than out; quote commas"));
    }
    if let csv::ErrorKind::Utf8 { .. } = error.kind() {
        return Some((line, "not UTF-8 text".to_owned(), "save the file as UTF-8"));
    }
    None
}

fn csv_broken(line: u64, row: u64, error: csv::Error) -> Stop {
    if let Some((line, problem, hint)) = csv_problem(&error) {
        let (column, hint) = (String::new(), hint.to_owned());
        let error = LineError { line, row, column, problem, hint };
        return Stop::Broken(ImportError::Lines { errors: vec![error], total: 1, rows: row });
    }
    let text = error.to_string();
    if let csv::ErrorKind::Io(error) = error.into_kind() {
        return broken(line, row, error);
    }
    broken(line, row, io::Error::new(io::ErrorKind::InvalidData, text))
}

fn read_json(mut body: Body, progress: &Progress, rows: &mut Rows<'_>) -> Result<(), Stop> {
    let mut first = [b' '];
    while first[0].is_ascii_whitespace() {
        match body.read(&mut first) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(broken(1, 0, error)),
        }
    }
    let mut reader = serde_json::Deserializer::from_reader(Read::chain(&first[..], body));
    let mut stop = None;
    let result = if first[0] == b'[' {
        let elements = Elements { rows, progress, stop: &mut stop };
        reader.deserialize_seq(elements).and_then(|()| reader.end())
    } else {
        read_values(reader, &mut Elements { rows, progress, stop: &mut stop })
    };
    match (stop, result) {
        (Some(stop), _) => Err(stop),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) => {
            let kind = error.io_error_kind().unwrap_or(io::ErrorKind::InvalidData);
            let error = io::Error::new(kind, error.to_string());
            Err(broken(progress.line.get(), rows.count + 1, error))
        }
    }
}

/// Objects one after the other, usually one a line.
fn read_values<R: Read>(
    reader: serde_json::Deserializer<serde_json::de::IoRead<R>>,
    elements: &mut Elements<'_, '_>,
) -> serde_json::Result<()> {
    for value in reader.into_iter::<Value>() {
        let line = elements.progress.line.get();
        elements.take(line, value?).map_err(|()| serde_json::Error::custom("stopped"))?;
    }
    Ok(())
}

/// Takes the elements of an array one by one, so that the array is never held whole.
struct Elements<'a, 'b> {
    rows: &'a mut Rows<'b>,
    progress: &'a Progress,
    stop: &'a mut Option<Stop>,
}

impl Elements<'_, '_> {
    fn take(&mut self, line: u64, value: Value) -> Result<(), ()> {
        self.progress.since_row.set(0);
        let taken = take_object(self.rows, line, value);
        taken.map_err(|stop| *self.stop = Some(stop))
    }
}

impl<'de> Visitor<'de> for Elements<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut array: A) -> Result<(), A::Error> {
        while let Some((line, value)) = array.next_element_seed(Element(self.progress))? {
            self.take(line, value).map_err(|()| A::Error::custom("stopped"))?;
        }
        Ok(())
    }
}

/// One element with the line on which it begins.
struct Element<'a>(&'a Progress);

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = (u64, Value);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let line = self.0.line.get();
        Ok((line, Value::deserialize(deserializer)?))
    }
}

fn take_object(rows: &mut Rows<'_>, line: u64, value: Value) -> Result<(), Stop> {
    rows.count += 1;
    let row = rows.count;
    let Value::Object(object) = value else {
        return rows.bad(line, row, "not an object".to_owned(), "write one object for each row");
    };
    let mut texts = BTreeMap::new();
    let mut is_good = true;
    for (name, value) in object {
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Null => continue,
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                is_good = false;
                let problem = format!("{name} is neither text nor a number");
                rows.bad(line, row, problem, "write the value as text or a number")?;
                continue;
            }
        };
        if is_column(&name) {
            texts.insert(name, text);
        } else {
            is_good = false;
            let problem = format!("{name:?} is no column of this import");
            rows.bad(line, row, problem, "use the column names of the documentation")?;
        }
    }
    if !is_good {
        return Ok(());
    }
    let cells = texts.iter().map(|(name, text)| (name.as_str(), text.trim())).collect();
    rows.push(Row::read(line, row, &Cells(cells)))
}
