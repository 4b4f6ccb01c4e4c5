//! The demonstration as a client of the node: the Web API, and SQL as an analyst.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, anyhow};
use serde_json::Value;

use crate::http::{self, Call, HttpError};

/// The Web API.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    /// Where.
    pub(crate) address: SocketAddr,
    /// Of the administrator.
    pub(crate) token: String,
}

impl Api {
    /// Sends JSON, returns JSON.
    ///
    /// # Errors
    /// Of the connection, or what the API refused.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, HttpError> {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string().into())
            .await
    }

    /// Replaces by JSON.
    ///
    /// # Errors
    /// As [`Api::post`].
    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Value, HttpError> {
        self.send("PUT", path, &[("content-type", "application/json")], body.to_string().into())
            .await
    }

    /// Sends a body of another kind.
    ///
    /// # Errors
    /// As [`Api::post`].
    pub(crate) async fn post_as(
        &self,
        path: &str,
        media: &str,
        body: Vec<u8>,
    ) -> Result<Value, HttpError> {
        self.send("POST", path, &[("content-type", media)], body).await
    }

    /// Tops an account up; repeating the call with the same key changes nothing.
    ///
    /// # Errors
    /// As [`Api::post`].
    pub(crate) async fn top_up(
        &self,
        account: u64,
        key: &str,
        amount: &str,
    ) -> Result<Value, HttpError> {
        let path = format!("/v1/accounts/{account}/top-ups");
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        let body = serde_json::json!({ "amount": amount }).to_string();
        self.send("POST", &path, &headers, body.into()).await
    }

    /// Reads one thing.
    ///
    /// # Errors
    /// As [`Api::post`].
    pub(crate) async fn get(&self, path: &str) -> Result<Value, HttpError> {
        self.send("GET", path, &[], Vec::new()).await
    }

    /// Reads all pages of a list.
    ///
    /// # Errors
    /// As [`Api::post`].
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<Value>, HttpError> {
        let (mut items, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}?limit=1000{after}")).await?;
            items.extend(page["items"].as_array().into_iter().flatten().cloned());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(items),
            }
        }
    }

    /// The ids of a list by one of its members.
    ///
    /// # Errors
    /// As [`Api::post`].
    pub(crate) async fn ids(
        &self,
        path: &str,
        by: &str,
    ) -> Result<BTreeMap<String, u64>, HttpError> {
        let items = self.list(path).await?;
        let pair = |item: &Value| Some((item[by].as_str()?.to_owned(), item["id"].as_u64()?));
        Ok(items.iter().filter_map(pair).collect())
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Value, HttpError> {
        let bearer = format!("Bearer {}", self.token);
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        let answer = http::send(self.address, Call { method, path, headers: &all, body }).await?;
        serde_json::from_slice(&answer).map_err(|error| HttpError::Exchange {
            address: self.address,
            reason: format!("the answer is no JSON: {error}"),
        })
    }
}

/// ClickHouse as an analyst.
#[derive(Clone, Debug)]
pub(crate) struct Sql {
    /// Where.
    pub(crate) address: SocketAddr,
    /// Who.
    pub(crate) user: String,
    /// How.
    pub(crate) password: String,
    /// Which.
    pub(crate) database: String,
}

impl Sql {
    /// Rows of a query, columns as text.
    ///
    /// # Errors
    /// Of the connection, or what ClickHouse refused.
    pub(crate) async fn rows(&self, query: &str) -> anyhow::Result<Vec<Vec<String>>> {
        let headers = [
            ("x-clickhouse-user", self.user.as_str()),
            ("x-clickhouse-key", self.password.as_str()),
        ];
        let path = format!("/?database={}&default_format=TSV", self.database);
        let call = Call { method: "POST", path: &path, headers: &headers, body: query.into() };
        let answer = http::send(self.address, call).await.with_context(|| query.to_owned())?;
        let text = std::str::from_utf8(&answer).context("ClickHouse's answer is no text")?;
        let columns = |line: &str| line.split('\t').map(str::to_owned).collect();
        Ok(text.lines().map(columns).collect())
    }

    /// A query's only value.
    ///
    /// # Errors
    /// As [`Sql::rows`], and when there is none.
    pub(crate) async fn value(&self, query: &str) -> anyhow::Result<String> {
        let rows = self.rows(query).await?;
        let first = rows.into_iter().flatten().next();
        first.ok_or_else(|| anyhow!("no answer to {query}"))
    }

    /// A query's first column to its second.
    ///
    /// # Errors
    /// As [`Sql::rows`].
    pub(crate) async fn map(&self, query: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let rows = self.rows(query).await?;
        let pair = |row: Vec<String>| {
            let mut columns = row.into_iter();
            Some((columns.next()?, columns.next()?))
        };
        Ok(rows.into_iter().filter_map(pair).collect())
    }
}
