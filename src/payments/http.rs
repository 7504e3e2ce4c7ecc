//! HTTP helpers of the payment providers' clients.

/// The body of an answer, unless it is longer than `max`.
pub(super) async fn read_body(
    mut answer: reqwest::Response,
    max: usize,
) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| error.without_url().to_string())? {
        if body.len().saturating_add(chunk.len()) > max {
            return Err("an answer that is too large".into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
