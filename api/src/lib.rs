//! The Web API: axum routes, rights, OpenAPI, JSON types of its own.
