//! An engine in this process, asked over loopback.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;

struct Served {
    engine: Arc<Engine>,
    address: SocketAddr,
    client: Client<HttpConnector, Full<axum::body::Bytes>>,
}

impl Served {
    async fn new(flags: &str, tokens_per_second: f64) -> Self {
        let words: Vec<_> = format!("serve m {flags}").split_whitespace().map(str::to_owned).collect();
        let engine = Arc::new(Engine::new(EngineArgs::parse(&words).unwrap(), tokens_per_second));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, router(Arc::clone(&engine))).into_future());
        Self { engine, address, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    async fn call(&self, path: &str, body: Option<Value>) -> (u16, String) {
        let (client, request) = (self.client.clone(), self.request(path, body));
        let response = client.request(request).await.unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(bytes.to_vec()).unwrap())
    }

    fn request(&self, path: &str, body: Option<Value>) -> hyper::Request<Full<axum::body::Bytes>> {
        let method = if body.is_some() { "POST" } else { "GET" };
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        hyper::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .body(Full::from(body))
            .unwrap()
    }

    /// A request that takes too long to end by itself, with a connection of its own.
    fn hold(&self) -> tokio::task::JoinHandle<()> {
        let client: Client<HttpConnector, Full<axum::body::Bytes>> =
            Client::builder(TokioExecutor::new()).build_http();
        let request = self.request("/v1/completions", Some(json!({"prompt": "a b", "max_tokens": 100_000})));
        tokio::spawn(async move {
            let _ = client.request(request).await;
        })
    }

    async fn until(&self, waiting: usize, running: usize) {
        let counts = || (self.engine.scheduler.waiting(), self.engine.scheduler.running());
        let reached = async {
            while counts() != (waiting, running) {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), reached)
            .await
            .unwrap_or_else(|_| panic!("wanted {waiting} waiting and {running} running, saw {:?}", counts()));
    }
}

#[tokio::test]
async fn requests_beyond_the_concurrency_wait_and_are_counted_truly() {
    let served = Served::new("--max-num-seqs 2", 100.0).await;
    let held: Vec<_> = (0..5).map(|_| served.hold()).collect();
    served.until(3, 2).await;
    let (_, page) = served.call("/metrics", None).await;
    for series in [
        r#"vllm:num_requests_waiting{engine="0",model_name="m"} 3.0"#,
        r#"vllm:num_requests_running{engine="0",model_name="m"} 2.0"#,
        r#"vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 3.0"#,
        r#"vllm:kv_cache_usage_perc{engine="0",model_name="m"} 1.0"#,
        r#"vllm:engine_sleep_state{engine="0",model_name="m",sleep_state="awake"} 1.0"#,
        r#"vllm:prompt_tokens_total{engine="0",model_name="m"} 4.0"#,
        r#"vllm:prompt_tokens_by_source_total{engine="0",model_name="m",source="local_compute"} 4.0"#,
        r#"vllm:prompt_tokens_by_source_total{engine="0",model_name="m",source="local_cache_hit"} 0.0"#,
    ] {
        assert!(page.contains(series), "{series} is not in\n{page}");
    }
    // Who hangs up leaves the queue, and the next one takes the slot.
    for held in held {
        held.abort();
    }
    served.until(0, 0).await;
    let totals = served.engine.scheduler.totals();
    assert_eq!((totals.finished, totals.aborted), (0, 5));
}

#[tokio::test]
async fn who_hangs_up_in_the_queue_leaves_it_while_others_run() {
    let served = Served::new("--max-num-seqs 1", 1000.0).await;
    let running = served.hold();
    served.until(0, 1).await;
    let waiter = served.hold();
    served.until(1, 1).await;
    waiter.abort();
    served.until(0, 1).await;
    let before = served.engine.scheduler.totals();
    assert_eq!((before.finished, before.aborted, before.prompt_tokens), (0, 1, 2));
    // Tokens show as they come, not when the request ends.
    let generates = async {
        while served.engine.scheduler.totals().generated_tokens <= before.generated_tokens {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), generates).await.expect("the running request generates tokens");
    running.abort();
    served.until(0, 0).await;
    assert_eq!(served.engine.scheduler.totals().aborted, 2);
}

#[tokio::test]
async fn an_answer_has_the_shape_of_openais() {
    let served = Served::new("--served-model-name a b --max-model-len 8K", 10_000.0).await;
    let (code, body) =
        served.call("/v1/completions", Some(json!({"model": "b", "prompt": "x y z", "max_tokens": 4}))).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (code, &body["usage"]["total_tokens"], &body["object"]),
        (200, &json!(7), &json!("text_completion"))
    );
    let first = body["id"].clone();
    let chat = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "stream": true});
    let (code, body) = served.call("/v1/chat/completions", Some(chat)).await;
    assert_eq!((code, body.matches("chat.completion.chunk").count()), (200, 2));
    assert!(body.trim_end().ends_with("data: [DONE]"), "{body}");
    // The last chunk alone says why it is the last, and one answer's chunks share an id that no other has.
    let chunks: Vec<Value> =
        body.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect();
    let reasons: Vec<_> = chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
    assert_eq!(reasons, [&Value::Null, &json!("length")]);
    assert!(chunks[0]["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")), "{chunks:?}");
    assert_eq!(chunks[0]["id"], chunks[1]["id"]);
    let (_, again) = served.call("/v1/completions", Some(json!({"prompt": "x", "max_tokens": 1}))).await;
    let again: Value = serde_json::from_str(&again).unwrap();
    assert!(again["id"].as_str().is_some_and(|id| id.starts_with("cmpl-")), "{again}");
    assert_ne!(again["id"], first);
    let (_, models) = served.call("/v1/models", None).await;
    assert!(models.contains(r#""id":"a""#) && models.contains(r#""id":"b""#), "{models}");
    assert!(models.contains(r#""max_model_len":8192"#), "{models}");
    let totals = served.engine.scheduler.totals();
    assert_eq!((totals.finished, totals.generated_tokens, totals.latency.count()), (3, 7, 3));
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let served = Served::new("", 10_000.0).await;
    for (body, code, says) in [
        (json!({"model": "other", "prompt": "x"}), 404, "The model `other` does not exist."),
        (json!({"model": "m"}), 400, "'prompt' is required"),
        (json!({"prompt": "x", "max_tokens": 0}), 400, "max_tokens must be at least 1"),
        (json!("no object"), 400, "invalid type"),
        (json!({"prompt": 5}), 400, "'prompt' must be text"),
        (json!({"prompt": {"a": 1}}), 400, "'prompt' must be text"),
        (json!({"prompt": ["x", 1]}), 400, "'prompt' must be text"),
        (json!({"prompt": [-1]}), 400, "'prompt' must be text"),
        (json!({"prompt": [[1], []]}), 400, "'prompt' must be text"),
        (json!({"prompt": []}), 400, "at least one prompt"),
        (json!({"prompt": "x", "max_tokens": -1}), 400, "invalid value"),
        (json!({"prompt": "x", "stream_options": {}}), 400, "when `stream=True`"),
    ] {
        let (got, text) = served.call("/v1/completions", Some(body.clone())).await;
        assert_eq!(got, code, "{body}: {text}");
        assert!(text.contains(says), "{body}: {text}");
        let error: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(error["error"]["code"], code, "{body}: {text}");
    }
    let (code, text) = served.call("/v1/chat/completions", Some(json!({"messages": []}))).await;
    assert_eq!(code, 400, "{text}");
    assert!(text.contains("at least one message"), "{text}");
    let mut request = served.request("/v1/completions", Some(json!({})));
    *request.body_mut() = Full::from(&b"\xff"[..]);
    let response = served.client.request(request).await.unwrap();
    assert_eq!(response.status(), 400);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let error: Value = serde_json::from_slice(&bytes).expect("no text is answered in OpenAI's form, too");
    assert_eq!(error["error"]["type"], "BadRequestError");
}

#[tokio::test]
async fn each_way_to_write_a_prompt() {
    let served = Served::new("", 10_000.0).await;
    for (prompt, tokens) in
        [(json!("a b c"), 3), (json!(["a b", "c"]), 3), (json!([7, 8]), 2), (json!([[7, 8], [9]]), 3)]
    {
        let (code, body) =
            served.call("/v1/completions", Some(json!({"prompt": prompt, "max_tokens": 1}))).await;
        assert_eq!(code, 200, "{prompt}: {body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["usage"]["prompt_tokens"], tokens, "{prompt}: {body}");
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_usage_where_that_is_wanted() {
    let served = Served::new("", 10_000.0).await;
    let chat = json!({
        "messages": [{"role": "user", "content": "hi you"}],
        "max_tokens": 9,
        "max_completion_tokens": 3,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    let (_, body) = served.call("/v1/chat/completions", Some(chat)).await;
    let last = body.lines().rev().filter_map(|line| line.strip_prefix("data: ")).nth(1).unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["choices"], json!([]), "{body}");
    assert_eq!(last["usage"], json!({"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}));
}

#[tokio::test]
async fn a_key_is_demanded_of_v1_alone() {
    let served = Served::new("--api-key secret", 10_000.0).await;
    assert_eq!(served.call("/v1/models", None).await.0, 401);
    assert_eq!(served.call("/health", None).await.0, 200);
    assert_eq!(served.call("/metrics", None).await.0, 200);
}

#[tokio::test]
async fn a_draining_engine_is_healthy_and_takes_nothing_new() {
    let served = Served::new("", 10_000.0).await;
    served.engine.drain();
    assert_eq!(served.call("/v1/completions", Some(json!({"prompt": "x"}))).await.0, 503);
    assert_eq!(served.call("/health", None).await.0, 200);
}

impl Served {
    async fn control(&self, control: Value) -> (u16, String) {
        let mut request = self.request(control::PATH, Some(control));
        *request.method_mut() = hyper::Method::PUT;
        let response = self.client.request(request).await.unwrap();
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(bytes.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn a_controlled_engine_is_as_it_is_told_and_as_before_afterwards() {
    let served = Served::new("", 100.0).await;
    let metric = |page: &str, name: &str| {
        page.lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.rsplit(' ').next())
            .map(String::from)
    };
    let told = json!({"waiting": 7, "running": 3, "kvCacheUsage": 0.5, "modelsDelayMs": 200, "memoryMib": 1});
    assert_eq!(served.control(told).await.0, 200);
    let page = served.call("/metrics", None).await.1;
    for (name, value) in [("waiting{", "7.0"), ("running{", "3.0")] {
        assert_eq!(metric(&page, &format!("vllm:num_requests_{name}")).as_deref(), Some(value));
    }
    assert_eq!(metric(&page, "vllm:kv_cache_usage_perc{").as_deref(), Some("0.5"));
    let began = std::time::Instant::now();
    assert_eq!(served.call("/v1/models", None).await.0, 200);
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());

    served.control(json!({"garbageMetrics": true})).await;
    let (code, page) = served.call("/metrics", None).await;
    assert!(code == 200 && metric(&page, "vllm:num_requests_running{").is_none(), "{page}");

    served.control(json!({"redirect": control::LANDING})).await;
    assert_eq!(served.call("/metrics", None).await.0, 307);
    assert_eq!(served.call("/health", None).await.0, 200);
    served.call(control::LANDING, None).await;

    served.control(json!({})).await;
    assert_eq!(
        metric(&served.call("/metrics", None).await.1, "vllm:num_requests_waiting{").as_deref(),
        Some("0.0")
    );
    let seen: control::Seen = serde_json::from_str(&served.call(control::PATH, None).await.1).unwrap();
    let counts = ["/metrics", "/v1/models", "/health", control::PATH].map(|path| seen.of(path));
    assert_eq!(counts, [4, 1, 1, 0], "{seen:?}");
    assert_eq!((seen.redirects_answered, seen.redirects_followed, seen.by("")), (1, 1, 7), "{seen:?}");
    assert_eq!(seen.control, control::Control::default());
}

#[tokio::test]
async fn a_hanging_engine_accepts_and_never_answers() {
    let served = Served::new("", 100.0).await;
    for (hang, silent, answering) in [
        ("metrics", &["/metrics"][..], &["/v1/models", "/health"][..]),
        ("models", &["/v1/models"], &["/metrics", "/health"]),
        ("allButHealth", &["/metrics", "/v1/models", "/version"], &["/health"]),
        ("everything", &["/metrics", "/v1/models", "/health"], &[]),
    ] {
        assert_eq!(served.control(json!({"hang": hang})).await.0, 200);
        for path in silent {
            let answer = timeout(Duration::from_millis(100), served.call(path, None)).await;
            assert!(answer.is_err(), "{hang} {path}: {answer:?}");
        }
        for path in answering {
            assert_eq!(served.call(path, None).await.0, 200, "{hang} {path}");
        }
    }
}

#[tokio::test]
async fn a_control_that_cannot_be_is_refused_whole() {
    let served = Served::new("", 100.0).await;
    for (wrong, says) in [
        (json!({"waiting": 5, "kvCacheUsage": 1.5}), "kvCacheUsage is 1.5; it is a part of one, from 0 to 1"),
        (json!({"cpuMillicores": 4001}), "cpuMillicores is 4001; at most 4000 is allowed"),
        (json!({"memoryMib": 1025}), "memoryMib is 1025; at most 1024 is allowed"),
        (json!({"redirect": "a\nb"}), "redirect is"),
        (json!({"hangs": "all"}), "unknown field `hangs`"),
    ] {
        let (code, text) = served.control(wrong).await;
        assert!((400..500).contains(&code) && text.contains(says), "{code} {text}");
    }
    let seen: control::Seen = serde_json::from_str(&served.call(control::PATH, None).await.1).unwrap();
    assert_eq!(seen.control, control::Control::default());
}
