//! Requests of every shape over real TLS: whatever has a uid gets an answer that the API server takes, whatever
//! else an HTTP error, and each connection and each other peer is served on as far as HTTP can go.

#[expect(dead_code, reason = "the other binaries use the rest")]
mod support;

use rstest::rstest;
use serde_json::{Value, json};
use support::{Server, post, review_of, unreached, within};
use webhook::handler::BODY_LIMIT;

#[tokio::test]
async fn says_what_is_wrong_with_a_request_and_keeps_the_connection() {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect().await;
    let review = review_of("a");
    let as_yaml =
        String::from_utf8(post(&review)).expect("text").replace("application/json", "application/yaml");
    for (request, status, sentence) in [
        (as_yaml.into_bytes(), 415, "application/json"),
        (
            b"POST /review HTTP/1.1\r\nHost: webhook\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
            415,
            "application/json",
        ),
        (post(&review[..review.len() / 2]), 400, "AdmissionReview"),
        (post(""), 400, "AdmissionReview"),
        (post("{}"), 400, "AdmissionReview"),
        (b"GET /review HTTP/1.1\r\nHost: webhook\r\n\r\n".to_vec(), 405, ""),
        (b"POST /other HTTP/1.1\r\nHost: webhook\r\nContent-Length: 0\r\n\r\n".to_vec(), 404, ""),
    ] {
        peer.send(&request).await;
        let answer = peer.answer().await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.body.contains(sentence), "{answer:?}");
    }
    assert_eq!(peer.review("b").await.status, 200);
}

#[tokio::test]
async fn takes_a_charset_with_the_content_type() {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect().await;
    let request = String::from_utf8(post(&review_of("a"))).expect("text");
    peer.send(request.replace("application/json", "Application/JSON; charset=utf-8").as_bytes()).await;
    assert_eq!(peer.answer().await.status, 200);
}

#[tokio::test]
async fn takes_two_objects_of_three_mebibytes() {
    let server = Server::start(unreached()).await;
    let object = format!("{{\"data\":\"{}\"}}", "x".repeat(3 << 20));
    let review = review_of("a").replace(r#"{"data":{}}"#, &format!(r#"{object},"oldObject":{object}"#));
    assert!(review.len() > 6 << 20);
    let mut peer = server.connect().await;
    peer.send(&post(&review)).await;
    assert_eq!(peer.answer().await.status, 200);
}

#[tokio::test]
async fn refuses_a_body_beyond_the_limit() {
    let server = Server::start(unreached()).await;
    let head = "POST /review HTTP/1.1\r\nHost: webhook\r\nContent-Type: application/json\r\n";
    // Nothing of the body is sent: the length alone is told.
    let mut announced = server.connect().await;
    announced.send(format!("{head}Content-Length: {}\r\n\r\n", BODY_LIMIT + 1).as_bytes()).await;
    assert_eq!(announced.answer().await.status, 413);

    let mut chunked = server.connect().await;
    chunked
        .send(format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", BODY_LIMIT + 1).as_bytes())
        .await;
    chunked.send(&vec![b' '; BODY_LIMIT + 1]).await;
    assert_eq!(chunked.answer().await.status, 413);
}

#[tokio::test]
async fn a_panic_is_a_refusal_and_the_connection_stays() {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect().await;
    let answer = peer.review("panic").await;
    // HTTP 500 would let the write pass under `failurePolicy: Ignore`.
    assert_eq!(answer.status, 200);
    let review: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    let response = &review["response"];
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&false.into(), &500.into()));
    assert_eq!(response["uid"], "uid-panic");
    assert!(!answer.body.contains("as the test wants it"), "{answer:?}");
    assert_eq!(peer.review("a").await.status, 200);
    assert_eq!(server.connect().await.review("b").await.status, 200);
}

/// The recorded shape with one thing changed.
fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut review: Value = serde_json::from_str(&review_of("a")).expect("JSON");
    change(&mut review["request"]);
    review.to_string()
}

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

#[rstest]
#[case::no_object(changed(|request| request["object"] = Value::Null))]
#[case::without_most(changed(|request| *request = json!({ "uid": "uid-a", "operation": "CREATE" })))]
#[case::nulls(changed(|request| for (key, value) in request.as_object_mut().expect("an object") {
    if !["uid", "operation"].contains(&key.as_str()) { *value = Value::Null; }
}))]
#[case::null_within_the_user(changed(|request| request["userInfo"] = json!({ "username": null, "groups": null })))]
#[case::null_within_the_resource(changed(|request| request["resource"]["group"] = Value::Null))]
#[case::deletion(changed(|request| request["operation"] = json!("DELETE")))]
#[case::connection(changed(|request| request["operation"] = json!("CONNECT")))]
#[case::unknown_fields(changed(|request| request["future"] = json!({ "uid": "v" })))]
#[case::extremes(changed(|request| request["object"] = json!({ "a": i64::MIN, "b": u64::MAX, "c": 1.5, "d": 1e300 })))]
#[case::a_number_beyond_all(review_of("a").replace(r#"{"data":{}}"#, &format!("{{\"a\":{}}}", "9".repeat(5000))))]
#[case::deep_nesting(review_of("a").replace(r#"{"data":{}}"#, &nested(3 << 20)))]
#[case::a_key_twice_in_the_object(review_of("a").replace(r#"{"data":{}}"#, r#"{"a":1,"a":2}"#))]
#[tokio::test]
async fn odd_reviews_are_judged(#[case] review: String) {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect().await;
    for _ in 0..2 {
        peer.send(&post(&review)).await;
        let answer = peer.answer().await;
        assert_eq!((answer.status, &response(&answer.body)["allowed"]), (200, &json!(true)), "{answer:?}");
    }
}

fn response(body: &str) -> Value {
    serde_json::from_str::<Value>(body).expect("JSON")["response"].take()
}

#[rstest]
#[case::unknown_operation(changed(|request| request["operation"] = json!("PATCH")), "unknown variant `PATCH`")]
#[case::no_operation(changed(|request| _ = request.as_object_mut().expect("an object").remove("operation")), "missing field `operation`")]
#[case::user_of_text(changed(|request| request["userInfo"] = json!("me")), "invalid type: string")]
#[case::dry_run_of_a_number(changed(|request| request["dryRun"] = json!(1)), "invalid type: integer `1`")]
#[case::a_key_twice(review_of("a").replace(r#""name":"a""#, r#""name":"a","name":"b""#), "duplicate field `name`")]
#[case::the_object_twice(review_of("a").replace(r#""name":"a""#, r#""name":"a","object":{}"#), "duplicate field `object`")]
#[tokio::test]
async fn reviews_that_cannot_be_read_are_refused_with_their_uid(#[case] review: String, #[case] says: &str) {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect().await;
    peer.send(&post(&review)).await;
    let answer = peer.answer().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let response = response(&answer.body);
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(400)));
    assert!(response["status"]["message"].as_str().expect("text").contains(says), "{response}");
    assert_eq!(peer.review("next").await.status, 200);
}

#[tokio::test]
async fn bytes_that_are_no_text_are_refused() {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect().await;
    for (place, status) in [("\"data\"", 200), ("\"uid-a\"", 200), ("\"apiVersion\"", 400)] {
        let review = review_of("a");
        let at = review.find(place).expect("a place") + 1;
        let mut request = post(&review);
        let body = request.len() - review.len();
        if place == "\"uid-a\"" {
            // The uid stays; a byte of the next value is none of UTF-8.
            request[body + review.find("admin").expect("a place")] = 0xff;
        } else {
            request[body + at] = 0xff;
        }
        peer.send(&request).await;
        let answer = peer.answer().await;
        assert_eq!(answer.status, status, "{place}: {answer:?}");
        if status == 200 {
            assert_eq!(response(&answer.body)["status"]["code"], 400, "{answer:?}");
        }
    }
}

#[rstest]
#[case::no_uid(changed(|request| request["uid"] = Value::Null), "empty uid")]
#[case::uid_twice(review_of("a").replace(r#""uid":"uid-a""#, r#""uid":"uid-a","uid":"b""#), "duplicate field `uid`")]
#[case::no_request(changed(|request| *request = Value::Null), "no request")]
#[case::another_version(review_of("a").replace("admission.k8s.io/v1", "admission.k8s.io/v1beta1"), "v1beta1")]
#[case::another_version_without_an_operation(
    review_of("a").replace("admission.k8s.io/v1", "admission.k8s.io/v1beta1").replace("operation", "verb"),
    "v1beta1"
)]
#[case::another_kind(review_of("a").replace("AdmissionReview", "Pod"), "Pod")]
#[case::endless_nesting(format!("{{\"a\":{}", "[".repeat(BODY_LIMIT - 5)), "EOF")]
#[case::half(review_of("a")[..200].to_owned(), "EOF")]
#[tokio::test]
async fn what_nobody_can_be_answered_gets_an_http_error(#[case] review: String, #[case] says: &str) {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect().await;
    peer.send(&post(&review)).await;
    let answer = peer.answer().await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.body.contains(says), "{answer:?}");
    assert_eq!(peer.review("next").await.status, 200);
}

#[tokio::test]
async fn a_body_of_just_the_limit_is_read() {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect().await;
    let review = review_of("a");
    let padding = " ".repeat(BODY_LIMIT - review.len());
    peer.send(&post(&format!("{review}{padding}"))).await;
    assert_eq!(peer.answer().await.status, 200);
    assert_eq!(peer.review("next").await.status, 200);
}

#[tokio::test]
async fn reads_a_body_in_chunks() {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect().await;
    let review = review_of("a");
    let (begin, rest) = review.split_at(100);
    for _ in 0..2 {
        peer.send(head("Transfer-Encoding: chunked").as_bytes()).await;
        peer.send(format!("64;name=value\r\n{begin}\r\n").as_bytes()).await;
        peer.send(format!("{:X}\r\n{rest}\r\n0\r\nX-Trailer: a\r\n\r\n", rest.len()).as_bytes()).await;
        assert_eq!(peer.answer().await.status, 200);
    }
}

fn head(with: &str) -> String {
    format!("POST /review HTTP/1.1\r\nHost: webhook\r\nContent-Type: application/json\r\n{with}\r\n\r\n")
}

#[tokio::test]
async fn asks_for_the_body_where_that_is_expected() {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect().await;
    let review = review_of("a");
    let expecting = |length| head(&format!("Expect: 100-continue\r\nContent-Length: {length}"));
    for _ in 0..2 {
        peer.send(expecting(review.len()).as_bytes()).await;
        assert!(peer.interim_answer().await.starts_with("HTTP/1.1 100 Continue"));
        peer.send(review.as_bytes()).await;
        assert_eq!(peer.answer().await.status, 200);
    }
    // What will not be read is not asked for.
    peer.send(expecting(BODY_LIMIT + 1).as_bytes()).await;
    assert_eq!(peer.answer().await.status, 413);
}

#[tokio::test]
async fn of_what_is_sent_at_once_the_first_is_answered() {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect_and_speak().await;
    let mut at_once = post(&review_of("a"));
    at_once.extend_from_slice(&post(&review_of("b")));
    at_once.extend_from_slice(&post(&review_of("c")));
    peer.send(&at_once).await;
    let answer = peer.answer().await;
    assert!(answer.status == 200 && answer.body.contains("uid-a"), "{answer:?}");
    let answer = peer.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (400, Some("close")));
    assert_eq!(answer.body, "send a request after the answer to the one before it\n");
    assert_eq!(peer.closed().await, "");
}

#[tokio::test]
async fn warnings_that_no_header_holds_are_mended() {
    let server = Server::start(unreached()).await;
    let answer = server.connect().await.review("warn").await;
    let response = response(&answer.body);
    let warnings = response["warnings"].as_array().expect("a list");
    assert_eq!((warnings.len(), &warnings[0]), (2, &json!("a  Set-Cookie: b")), "{answer:?}");
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up() {
    let server = Server::start(unreached()).await;
    let review = review_of("a");
    let mut peer = server.connect().await;
    peer.send(head(&format!("Expect: 100-continue\r\nContent-Length: {}", review.len())).as_bytes()).await;
    peer.interim_answer().await;
    peer.send(&review.as_bytes()[..review.len() - 1]).await;
    // The body is being read. From here on time runs only while nobody has anything to do.
    tokio::time::pause();
    let answer = peer.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (408, "the body did not come in time\n"));
    tokio::time::resume();
    assert_eq!(server.connect().await.review("b").await.status, 200);
}

#[tokio::test]
async fn a_peer_that_leaves_takes_nobody_along() {
    let server = Server::start(unreached()).await;
    let mut other = server.connect_and_speak().await;
    drop(server.connect_tcp().await);
    drop(server.connect().await);
    let request = post(&review_of("wait"));
    for length in [10, request.len() - 10] {
        let mut peer = server.connect().await;
        peer.send(&request[..length]).await;
        drop(peer);
    }
    let mut peer = server.connect().await;
    peer.send(&request).await;
    within("the decision", server.decider.waiting.acquire()).await.expect("open").forget();
    drop(peer);
    // Nobody waits for that decision any more, so it is given up.
    within("the decision's end", server.decider.over.acquire()).await.expect("open").forget();
    assert_eq!(other.review("a").await.status, 200);
    assert_eq!(server.connect().await.review("b").await.status, 200);
}

#[rstest]
#[case::no_http(b"hello\r\n\r\n", Some(400))]
#[case::http_2(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None)]
#[case::another_version(b"POST /review HTTP/3.0\r\n\r\n", Some(400))]
#[case::two_lengths(b"POST /review HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", Some(400))]
#[case::negative_length(b"POST /review HTTP/1.1\r\nContent-Length: -1\r\n\r\n", Some(400))]
#[case::unknown_coding(b"POST /review HTTP/1.1\r\nTransfer-Encoding: zip\r\n\r\n", Some(400))]
#[case::a_space_in_a_name(b"POST /review HTTP/1.1\r\nContent Length: 1\r\n\r\n", Some(400))]
#[case::no_chunk(
    b"POST /review HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    Some(400)
)]
#[tokio::test]
async fn what_is_no_http_ends_that_connection_only(#[case] bytes: &[u8], #[case] status: Option<u16>) {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect().await;
    peer.send(bytes).await;
    if let Some(status) = status {
        assert_eq!(peer.answer().await.status, status);
    }
    assert_eq!(peer.closed().await, "");
    assert_eq!(server.connect().await.review("a").await.status, 200);
}

#[rstest]
#[case::many_headers("X: y\r\n".repeat(200))]
#[case::a_long_header(format!("X: {}\r\n", "y".repeat(1 << 20)))]
#[case::a_long_path(String::new())]
#[tokio::test]
async fn headers_have_a_limit(#[case] headers: String) {
    let server = Server::start(unreached()).await;
    let mut peer = server.connect().await;
    let path = if headers.is_empty() { "x".repeat(1 << 20) } else { "review".into() };
    peer.try_send(format!("POST /{path} HTTP/1.1\r\n{headers}\r\n").as_bytes()).await;
    let seen = peer.closed().await;
    // The end of a connection with bytes unread may overtake the answer.
    assert!(seen.is_empty() || seen.starts_with("HTTP/1.1 4"), "{seen}");
    assert_eq!(server.connect().await.review("a").await.status, 200);
}
