//! One request, one answer.

use std::{convert::Infallible, net::SocketAddr, path::Path, time::Instant};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE},
};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tower_http::services::ServeFile;

use crate::{
    Cut, Refusal, Tree,
    access::{Access, Counted, OnAccess},
    tree,
};

type Error = Box<dyn std::error::Error + Send + Sync>;
type AnyBody = UnsyncBoxBody<Bytes, Error>;

/// How much is read from a file at a time.
const CHUNK: usize = 256 << 10;

/// Answers a request from the tree; every answer ends in the log.
pub(crate) async fn answer<B>(
    tree: &Tree,
    cut: Option<&Cut>,
    log: OnAccess,
    peer: SocketAddr,
    request: Request<B>,
) -> Result<Response<Counted<AnyBody>>, Infallible> {
    let began = Instant::now();
    let (parts, _) = request.into_parts();
    let head = parts.method == Method::HEAD;
    let response = match &parts.method {
        &Method::GET | &Method::HEAD => match tree.find(parts.uri.path()) {
            Ok(file) => serve(&file, &parts.method, &parts.headers).await,
            Err(refusal) => refuse(refusal),
        },
        _ => not_allowed(),
    };
    let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let access = Access {
        peer,
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        status: response.status().as_u16(),
        length: if head { 0 } else { length.unwrap_or(0) },
        sent: 0,
        began,
        took: began.elapsed(),
    };
    let is_whole = parts.method == Method::GET && response.status() == StatusCode::OK;
    let name = if is_whole { tree::normal(parts.uri.path()).ok() } else { None };
    let cut = cut.zip(name).and_then(|(cut, name)| cut.of(&name));
    let response = match cut {
        Some(cut) => response.map(|body| cut.body(body).boxed_unsync()),
        None => response,
    };
    Ok(response.map(|body| Counted::new(body, access, log)))
}

async fn serve(file: &Path, method: &Method, headers: &HeaderMap) -> Response<AnyBody> {
    let mut headers = headers.clone();
    // A part of another version than the client has the beginning of would make a file that never was (RFC 9110, 13.1.5).
    if let Some(condition) = headers.remove(IF_RANGE) {
        let current = call(file, &Method::HEAD, HeaderMap::new()).await;
        let same = [ETAG, LAST_MODIFIED].iter().any(|name| current.headers().get(name) == Some(&condition));
        if !same {
            headers.remove(RANGE);
        }
    }
    let mut response = call(file, method, headers).await;
    if response.status().is_success()
        && file.extension().is_some_and(|extension| extension == "ipxe" || extension == "cfg")
    {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    response
}

/// Lets the file service answer: lengths, ranges, `ETag`, `Last-Modified` and conditions.
async fn call(file: &Path, method: &Method, headers: HeaderMap) -> Response<AnyBody> {
    let mut request = Request::new(Full::<Bytes>::default());
    *request.method_mut() = method.clone();
    *request.headers_mut() = headers;
    let mut service = ServeFile::new(file).with_buf_chunk_size(CHUNK).ignore_multi_range_requests(true);
    match service.try_call(request).await {
        Ok(response) => response.map(|body| body.map_err(Error::from).boxed_unsync()),
        Err(error) => match error.kind() {
            std::io::ErrorKind::NotFound => refuse(Refusal::NotFound),
            std::io::ErrorKind::PermissionDenied => refuse(Refusal::Forbidden),
            _ => text(StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read"),
        },
    }
}

fn refuse(refusal: Refusal) -> Response<AnyBody> {
    match refusal {
        Refusal::Malformed => text(StatusCode::BAD_REQUEST, "the path leads above the root or is malformed"),
        Refusal::NotFound => text(StatusCode::NOT_FOUND, "there is no such file here"),
        Refusal::Forbidden => text(StatusCode::FORBIDDEN, "the server may not read this file"),
    }
}

fn not_allowed() -> Response<AnyBody> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "files are read here by GET and HEAD, and that is all");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

fn text(status: StatusCode, message: &'static str) -> Response<AnyBody> {
    let body = Full::new(Bytes::from(format!("{status}: {message}\n")));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
