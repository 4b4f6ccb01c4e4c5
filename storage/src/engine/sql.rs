//! What a statement is, and whether it may reach the engine at all, told from its text.
//!
//! The engine embeds client code: one text may hold several statements, SELECT may write files,
//! and the scalar function `file` reads any file of the host even for a read-only user. The
//! engine's own parser says what a text would *do* (`Connection::classify`); this module says
//! what it may *name*. Looking for `Function file` in `EXPLAIN AST` is not enough:
//! `arrayMap(file, …)` and `* APPLY(file)` read files too and show as an identifier or as
//! nothing. So every name outside quotes is looked at, wherever it stands.
//!
//! The lexer follows ClickHouse's. Where the two could part (nested comments, heredocs, letters
//! of other alphabets outside quotes, escapes in quoted names) the text is refused: a name must
//! not hide from one of them.

use std::collections::BTreeSet;

/// A lexical unit of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A name, keyword or number, as written.
    Word(&'a [u8]),
    /// A name between back-ticks or double quotes, without them.
    Quoted(&'a [u8]),
    /// A string literal.
    Literal,
    /// Any other printable ASCII character.
    Symbol(u8),
}

/// Why a text is not let through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SqlError {
    #[error("unterminated {what} at byte {at}")]
    Unterminated { what: &'static str, at: usize },
    #[error("character 0x{byte:02x} at byte {at} is not accepted outside quotes")]
    Character { byte: u8, at: usize },
    #[error("a comment inside a comment at byte {at} is not accepted")]
    NestedComment { at: usize },
    #[error("a backslash in the quoted name at byte {at} is not accepted")]
    EscapedName { at: usize },
    #[error(
        "{name} is not available here: it reaches files, other hosts or other programs; if you \
         mean a text, pass it as a parameter"
    )]
    Forbidden { name: String },
}

/// Splits a text into tokens, skipping space and comments.
#[derive(Debug, Clone)]
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The next token; `None` at the end.
    pub(super) fn next_token(&mut self) -> Result<Option<Token<'a>>, SqlError> {
        self.skip_blank()?;
        let start = self.at;
        let Some(&first) = self.text.get(start) else { return Ok(None) };
        match first {
            b'\'' => self.quoted(b'\'', "string").map(|_| Some(Token::Literal)),
            b'`' | b'"' => {
                let name = self.quoted(first, "quoted name")?;
                if name.contains(&b'\\') {
                    return Err(SqlError::EscapedName { at: start });
                }
                Ok(Some(Token::Quoted(name)))
            }
            byte if is_word(byte) => {
                let rest = &self.text[start..];
                let size = rest.iter().position(|&b| !is_word(b) && b != b'$');
                let size = size.unwrap_or(rest.len());
                self.at += size;
                Ok(Some(Token::Word(&rest[..size])))
            }
            // `$` opens a heredoc, `#` a comment, a backslash nothing: see the module doc.
            b'$' | b'#' | b'\\' => Err(SqlError::Character { byte: first, at: start }),
            byte if byte.is_ascii_graphic() => {
                self.at += 1;
                Ok(Some(Token::Symbol(byte)))
            }
            byte => Err(SqlError::Character { byte, at: start }),
        }
    }

    fn skip_blank(&mut self) -> Result<(), SqlError> {
        loop {
            let rest = &self.text[self.at..];
            if rest.starts_with(b"--") {
                let size = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
                self.at += size;
            } else if rest.starts_with(b"/*") {
                let body = &rest[2..];
                let size = find(body, b"*/")
                    .ok_or(SqlError::Unterminated { what: "comment", at: self.at })?;
                if let Some(inner) = find(&body[..size], b"/*") {
                    return Err(SqlError::NestedComment { at: self.at + 2 + inner });
                }
                self.at += size + 4;
            } else if rest.first().is_some_and(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')) {
                self.at += 1;
            } else {
                return Ok(());
            }
        }
    }

    /// Reads to the closing quote; a backslash or a doubled quote takes the next byte along.
    fn quoted(&mut self, quote: u8, what: &'static str) -> Result<&'a [u8], SqlError> {
        let start = self.at + 1;
        let mut at = start;
        while let Some(&byte) = self.text.get(at) {
            if byte == b'\\' || (byte == quote && self.text.get(at + 1) == Some(&quote)) {
                at += 2;
            } else if byte == quote {
                self.at = at + 1;
                return Ok(&self.text[start..at]);
            } else {
                at += 1;
            }
        }
        Err(SqlError::Unterminated { what, at: self.at })
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// Refused wherever they stand: the functions that reach files or other programs (they work by
/// name alone, as in `arrayMap(file, …)`), the clauses that read and write files, a table function
/// that runs a text, and a system table that stops every thread in turn.
const NEVER: &[&str] =
    &["file", "infile", "outfile", "catboostevaluate", "evalmlmethod", "eval", "stack_trace"];

/// Refused when called, beside those that the engine itself lists as unfit for readers.
const NEVER_CALLED: &[&str] =
    &["cluster", "clusterallreplicas", "input", "executable", "python", "url", "remote"];

/// The names that no statement may use.
#[derive(Debug, Clone)]
pub(super) struct Forbidden {
    called: BTreeSet<String>,
}

impl Forbidden {
    /// `table_functions`: those that the engine marks as unfit for a read-only user (they read
    /// files, URLs, other hosts). Harmless ones among them are taken out.
    pub(super) fn new<'a>(table_functions: impl Iterator<Item = &'a str>) -> Self {
        const HARMLESS: &[&str] = &["zeros", "zeros_mt", "viewexplain", "format", "loop"];
        let listed = table_functions.map(str::to_ascii_lowercase);
        let called = listed
            .filter(|name| !HARMLESS.contains(&name.as_str()))
            .chain(NEVER_CALLED.iter().map(|&name| name.to_owned()))
            .collect();
        Self { called }
    }

    /// Refuses a text that names what is forbidden. `values` are those of its parameters: one of
    /// type Identifier would become a name.
    pub(super) fn check<'a>(
        &self,
        text: &[u8],
        values: impl Iterator<Item = &'a str>,
    ) -> Result<(), SqlError> {
        let mut lexer = Lexer::new(text);
        let mut previous: Option<String> = None;
        let mut takes_identifier = false;
        while let Some(token) = lexer.next_token()? {
            let call = token == Token::Symbol(b'(');
            if let Some(name) = previous.take_if(|name| call && self.called.contains(name)) {
                return Err(SqlError::Forbidden { name });
            }
            previous = match token {
                Token::Word(name) | Token::Quoted(name) => {
                    Some(String::from_utf8_lossy(name).to_ascii_lowercase())
                }
                Token::Literal | Token::Symbol(_) => None,
            };
            if let Some(name) = previous.take_if(|name| NEVER.contains(&name.as_str())) {
                return Err(SqlError::Forbidden { name });
            }
            takes_identifier |= previous.as_deref() == Some("identifier");
        }
        for value in values.filter(|_| takes_identifier) {
            let name = value.to_ascii_lowercase();
            if NEVER.contains(&name.as_str()) || name.contains('\\') {
                return Err(SqlError::Forbidden { name });
            }
        }
        Ok(())
    }
}

/// What kind of request a text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// `INSERT … FORMAT x` whose data start at this byte.
    InsertData {
        /// The text before FORMAT.
        head: String,
        /// The format of the data.
        format: String,
        /// Where the data start.
        data_at: usize,
    },
    /// Anything that runs as one text.
    Text,
}

/// Tells an INSERT with data from other statements. `complete` = nothing follows `text`.
/// `None`: more of the text is needed to tell.
pub(super) fn statement(text: &[u8], complete: bool) -> Result<Option<Statement>, SqlError> {
    let mut lexer = Lexer::new(text);
    // An error at the end of an incomplete text may be a token cut in two.
    let more = |error| if complete { Err(error) } else { Ok(None) };
    let mut depth = 0_u32;
    let mut first = true;
    loop {
        let before = lexer.clone();
        let token = match lexer.next_token() {
            Ok(token) => token,
            Err(error) => return more(error),
        };
        let Some(token) = token else {
            return Ok(complete.then_some(Statement::Text));
        };
        match token {
            Token::Word(word) if first => {
                if !complete && lexer.at == text.len() {
                    return Ok(None);
                }
                if !word.eq_ignore_ascii_case(b"insert") {
                    return Ok(Some(Statement::Text).filter(|_| complete));
                }
            }
            _ if first => return Ok(complete.then_some(Statement::Text)),
            Token::Symbol(b'(') => depth += 1,
            Token::Symbol(b')') => depth = depth.saturating_sub(1),
            Token::Word(word) if depth == 0 && word.eq_ignore_ascii_case(b"format") => {
                let format = match lexer.next_token() {
                    Ok(Some(Token::Word(format))) if complete || lexer.at < text.len() => format,
                    Ok(Some(_)) if complete => return Ok(Some(Statement::Text)),
                    Ok(_) if !complete => return Ok(None),
                    Ok(_) => return Ok(Some(Statement::Text)),
                    Err(error) => return more(error),
                };
                return Ok(Some(Statement::InsertData {
                    head: String::from_utf8_lossy(&text[..before.at]).into_owned(),
                    format: String::from_utf8_lossy(format).into_owned(),
                    data_at: data_start(text, lexer.at),
                }));
            }
            Token::Word(word)
                if depth == 0
                    && [&b"values"[..], b"select", b"with"]
                        .iter()
                        .any(|end| word.eq_ignore_ascii_case(end)) =>
            {
                return Ok(complete.then_some(Statement::Text));
            }
            Token::Word(_) | Token::Quoted(_) | Token::Literal | Token::Symbol(_) => {}
        }
        first = false;
    }
}

/// Data start after the format's name, blanks and one line end, as in ClickHouse.
fn data_start(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\x0c')) {
        at += 1;
    }
    if text.get(at) == Some(&b'\r') {
        at += 1;
    }
    if text.get(at) == Some(&b'\n') { at + 1 } else { at }
}

/// The format that a SELECT ends with, if it names one.
pub(super) fn output_format(text: &[u8]) -> Option<String> {
    let mut lexer = Lexer::new(text);
    let mut last: [Option<Token<'_>>; 2] = [None, None];
    while let Ok(Some(token)) = lexer.next_token() {
        if token != Token::Symbol(b';') {
            last = [last[1], Some(token)];
        }
    }
    match last {
        [Some(Token::Word(format)), Some(Token::Word(name))]
            if format.eq_ignore_ascii_case(b"format") =>
        {
            Some(String::from_utf8_lossy(name).into_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(sql: &str, values: &[&str]) -> Result<(), SqlError> {
        let listed = ["url", "s3", "urlCluster", "zeros", "remote"];
        Forbidden::new(listed.into_iter()).check(sql.as_bytes(), values.iter().copied())
    }

    #[test]
    fn names_that_reach_out_are_refused_wherever_they_hide() {
        for sql in [
            "SELECT file('/etc/passwd')",
            "select FILE ('/etc/passwd')",
            "SELECT `file`('/etc/passwd')",
            "SELECT \"fi\\x6ce\"('/etc/passwd')",
            "SELECT arrayMap(file, ['/etc/passwd'])",
            "SELECT arrayMap(x -> file(x), ['/etc/passwd'])",
            "SELECT * APPLY(file) FROM (SELECT '/etc/passwd')",
            "SELECT * APPLY file FROM (SELECT '/etc/passwd')",
            "SELECT file /* */ -- c\n ('/etc/passwd')",
            "SELECT /* /* */ ' */ file('/etc/passwd') '",
            "SELECT # ' \n file('/etc/passwd') -- '",
            "SELECT $$'$$, file('/etc/passwd'), $$'$$",
            "SELECT ‘'’, file('/etc/passwd'), ‘'’",
            "SELECT 'it''s \\' ', file('/etc/passwd')",
            "DESCRIBE TABLE url('http://127.0.0.1/')",
            "SELECT * FROM UrlCluster('a','b')",
            "SELECT * FROM eval('SELECT 1')",
            "SELECT * FROM system.stack_trace",
            "SELECT 'open",
            "SELECT /* open",
            "SELECT \\N",
        ] {
            assert!(gate(sql, &[]).is_err(), "{sql}");
        }
        assert!(gate("SELECT arrayMap({f:Identifier}, ['/etc/passwd'])", &["file"]).is_err());
    }

    #[test]
    fn harmless_statements_pass() {
        for sql in [
            "SELECT 1",
            "SELECT 'file', \"profile\", url FROM t -- file",
            "SELECT * FROM zeros(10) /* url('x') */",
            "SELECT count() FROM readings FINAL WHERE meter_id IN (1, 2) AND a <> 'it''s'",
            "SELECT 'ü \\' file('",
            "INSERT INTO t (a, b) FORMAT Native",
        ] {
            assert_eq!(gate(sql, &[]), Ok(()), "{sql}");
        }
        assert_eq!(gate("SELECT {x:String}", &["file"]), Ok(()));
    }

    fn check(text: &[u8], complete: bool, want: Option<(&str, &str, usize)>) {
        let shown = String::from_utf8_lossy(text);
        match (statement(text, complete), want) {
            (Ok(Some(Statement::InsertData { head, format, data_at })), Some(want)) => {
                assert_eq!((head.as_str(), format.as_str(), data_at), want, "{shown}");
            }
            (Ok(Some(Statement::Text)), None) if complete => {}
            (Ok(None), None) if !complete => {}
            (got, want) => panic!("{shown}: got {got:?}, want {want:?}"),
        }
    }

    #[test]
    fn an_insert_with_data_is_told_from_other_statements() {
        let head = "INSERT INTO t (a, `format`)";
        check(
            b"INSERT INTO t (a, `format`) FORMAT Native\n\x01\xff'",
            true,
            Some((head, "Native", 42)),
        );
        check(b"insert into t format CSV 1,2", true, Some(("insert into t", "CSV", 25)));
        check(
            b"/* x */ INSERT INTO t FORMAT TSV\r\n1",
            false,
            Some(("/* x */ INSERT INTO t", "TSV", 34)),
        );
        check(b"INSERT INTO t FORMAT Nat", false, None);
        check(b"INSERT INTO t (a", false, None);
        check(b"INSE", false, None);
        check(b"SELECT 1 FORMAT Native", true, None);
        check(b"INSERT INTO t VALUES (1) -- FORMAT x", true, None);
        check(b"INSERT INTO t SELECT 1 FORMAT x", true, None);
        check(b"INSERT INTO t (format, b) VALUES", true, None);
        check(b"", true, None);
    }

    #[test]
    fn the_output_format_is_the_last_clause() {
        for (sql, want) in [
            ("SELECT 1 FORMAT Native", Some("Native")),
            ("SELECT 1 format\nJSON ; -- x", Some("JSON")),
            ("SELECT 1", None),
            ("SELECT 'FORMAT', x", None),
        ] {
            assert_eq!(output_format(sql.as_bytes()).as_deref(), want, "{sql}");
        }
    }
}
