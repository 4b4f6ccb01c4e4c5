//! `docs/analysts.md`: its questions with their SQL and their answers.

use std::fs;
use std::path::{Path, PathBuf};

/// A question of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// `1. How much …`
    pub(crate) title: String,
    pub(crate) sql: String,
    /// Tab-separated with names.
    pub(crate) answer: String,
}

pub(crate) fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/analysts.md")
}

/// Reads the page; each question has one SQL block and one answer after it.
pub(crate) fn questions() -> Vec<Question> {
    let page = fs::read_to_string(path()).unwrap();
    let mut questions = Vec::new();
    for section in page.split("\n### ").skip(1) {
        let block = |kind: &str| {
            let (_, rest) = section.split_once(&format!("```{kind}\n")).unwrap();
            rest.split_once("```").unwrap().0.to_owned()
        };
        let title = section.lines().next().unwrap().to_owned();
        questions.push(Question { title, sql: block("sql"), answer: block("text") });
    }
    questions
}

/// Puts answers into the page, for whoever changed a question: `METERD_WRITE_ANSWERS=1`.
pub(crate) fn write(answers: &[String]) {
    let page = fs::read_to_string(path()).unwrap();
    let mut parts = page.split("```text\n");
    let mut fresh = parts.next().unwrap().to_owned();
    for (part, answer) in parts.zip(answers) {
        let (_, rest) = part.split_once("```").unwrap();
        fresh.push_str(&format!("```text\n{answer}```{rest}"));
    }
    fs::write(path(), fresh).unwrap();
}
