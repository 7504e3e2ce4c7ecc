//! Logs and traces. Logs go to standard error, as text or as one JSON object per line. If a
//! collector is set, traces are exported by OTLP over HTTP (OpenTelemetry). The trace context is
//! passed to the upstream, and accepted from callers if the settings allow it (W3C Trace Context).
//!
//! Field names are the same everywhere: `request_id`, `account`, `key`, `route`, `status`. No line
//! and no span contains an API key, a session token, a password, an email address or a body.

use std::borrow::Cow;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::{Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider,
};
use reqwest::header::{HeaderName, HeaderValue};
use tracing::Span;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::{Directive, FilterFn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::{LogFormat, LogSettings, TraceSettings};

/// The target of the spans for the collector. They are never in the log.
pub const SPANS: &str = "polysystems::span";
/// The target of the access log: one line for each request.
pub const REQUEST: &str = "polysystems::request";
/// Timeout of an export, including its retries.
const EXPORT_MAX: Duration = Duration::from_secs(3);

/// The exporter of traces. Empty if no collector is set.
#[must_use = "spans that wait are lost unless it is ended"]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Exports the queued spans, and ends the exporter's thread. Blocks for up to `at_most`, so it
    /// must be called outside of the server's runtimes, after they have ended.
    pub fn end(self, at_most: Duration) {
        if let Some(provider) = self.0
            && let Err(error) = provider.shutdown_with_timeout(at_most)
        {
            tracing::warn!(%error, "the last traces may be lost");
        }
    }
}

/// Starts logging for the process, and tracing if `traces` is set.
pub fn start(log: &LogSettings, traces: &TraceSettings) -> anyhow::Result<Traces> {
    // Spans are never in the log, and without a collector none is created.
    let no_spans: Directive = format!("{SPANS}=off").parse()?;
    let filter = EnvFilter::try_new(log.filter()?)
        .with_context(|| format!("log.level {:?} is not a log level", log.level))?
        .add_directive(no_spans);
    let Some(url) = &traces.otlp_url else {
        // Without a collector one global filter is enough.
        let logs = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            // A write error is ignored: if the log's reader has left, the server must not panic.
            .log_internal_errors(false)
            .with_writer(std::io::stderr);
        match log.format {
            LogFormat::Human => logs.with_target(false).init(),
            LogFormat::Json => logs.json().flatten_event(true).init(),
        }
        log_panics();
        return Ok(Traces(None));
    };

    let provider = provider(url, traces)?;
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("polysystems"))
        // OpenTelemetry's own current context is not used. Without it, a poll of a future costs
        // nothing more.
        .with_context_activation(false)
        .with_tracked_inactivity(false)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_filter(
            FilterFn::new(|metadata| metadata.is_span() && metadata.target() == SPANS)
                .with_max_level_hint(LevelFilter::INFO),
        );
    let logs = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let logs = match log.format {
        LogFormat::Human => logs.with_target(false).boxed(),
        LogFormat::Json => logs.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(logs.with_filter(filter)).with(spans).init();
    log_panics();
    Ok(Traces(Some(provider)))
}

/// Logs a panic with its location. Its message is left out, because it may contain data.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(alert = "panic", place, thread = thread.name(), "a panic");
    }));
}

#[expect(clippy::float_arithmetic, reason = "a share, and no amount")]
fn provider(url: &str, settings: &TraceSettings) -> anyhow::Result<SdkTracerProvider> {
    // A blocking client, because the batch thread has no runtime. It is created on another thread,
    // because creating it within a runtime panics in a debug build.
    let client = std::thread::spawn(|| {
        reqwest::blocking::Client::builder()
            .timeout(EXPORT_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .build()
    })
    .join()
    .map_err(|_| anyhow!("cannot create the client for traces"))?
    .context("cannot create the client for traces")?;
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        // The exporter takes an endpoint that is set in code without a change, so the path is
        // appended here.
        .with_endpoint(format!("{}/v1/traces", url.trim_end_matches('/')))
        .with_timeout(EXPORT_MAX)
        .build()
        .context("cannot create the exporter for traces")?;
    // If the queue is full, spans are dropped.
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(8_192)
        .with_max_export_batch_size(512)
        .with_scheduled_delay(Duration::from_secs(2))
        .build();
    // The only float here. A sampling rate is not an amount.
    let ratio = f64::from(settings.per_mille) / 1_000.0;
    Ok(SdkTracerProvider::builder()
        .with_resource(
            // Also reads OTEL_RESOURCE_ATTRIBUTES. The service name in the settings wins over
            // OTEL_SERVICE_NAME.
            Resource::builder().with_service_name(settings.service.clone()).build(),
        )
        .with_sampler(Sampler::parent_based(Sampler::TraceIdRatioBased(ratio)))
        .with_span_processor(
            BatchSpanProcessor::builder(exporter).with_batch_config(batches).build(),
        )
        .build())
}

/// The headers of an incoming request. actix uses the crate `http` 0.2.
struct Arriving<'a>(&'a actix_web::http::header::HeaderMap);

impl Extractor for Arriving<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(actix_web::http::header::HeaderName::as_str).collect()
    }
}

/// The headers of an outgoing request. reqwest uses the crate `http` 1.
struct Leaving<'a>(&'a mut reqwest::header::HeaderMap);

impl Injector for Leaving<'_> {
    fn set(&mut self, key: &str, value: String) {
        // An empty `tracestate` is left out.
        if value.is_empty() {
            return;
        }
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(key.as_bytes()), HeaderValue::try_from(value))
        {
            self.0.insert(name, value);
        }
    }
}

/// Makes the caller's span the parent of `span`. Must be called before `span` has a child.
pub fn continue_from(span: &Span, headers: &actix_web::http::header::HeaderMap) {
    // Without a collector there is nothing to do. Without the header, a new trace begins here.
    if span.is_disabled() || !headers.contains_key("traceparent") {
        return;
    }
    let parent = TraceContextPropagator::new().extract(&Arriving(headers));
    if let Err(error) = span.set_parent(parent) {
        tracing::debug!(%error, "a span was not attached to the caller's trace");
    }
}

/// Writes the context of `span` into the headers of an outgoing request. Replaces any trace context
/// that they have.
pub fn continue_in(span: &Span, headers: &mut reqwest::header::HeaderMap) {
    if span.is_disabled() {
        return;
    }
    headers.remove("traceparent");
    headers.remove("tracestate");
    TraceContextPropagator::new().inject_context(&span.context(), &mut Leaving(headers));
}

/// Sets the name of `span`, which is known late. Recording the field `otel.name` is no alternative:
/// it is lost if the span has a child or a caller's span as parent.
pub fn name(span: &Span, name: impl Into<Cow<'static, str>>) {
    if !span.is_disabled() {
        span.context().span().update_name(name);
    }
}
