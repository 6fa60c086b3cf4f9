//! The README's "Try it", as it stands there, against a whole product: OPS-5.

use std::process::{Command, Stdio};

use crate::support::{TAFFRAIL, run_dir, start_product, unique};

const README: &str = include_str!("../../README.md");

/// The shell blocks of a section, in order.
fn blocks(section: &str) -> Vec<&'static str> {
    let start = README.find(&format!("\n## {section}\n")).unwrap() + 4;
    let rest = &README[start..];
    let text = &rest[..rest.find("\n## ").unwrap_or(rest.len())];
    text.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect()
}

#[test]
fn the_run_and_test_commands_are_one_line_each() {
    assert_eq!(blocks("Run"), ["cargo run --release -- up\n"]);
    assert_eq!(blocks("Test"), ["cargo test --workspace\n"]);
}

#[tokio::test]
async fn its_lines_do_what_it_says() {
    let dir = run_dir().join(format!("readme-{}", unique()));
    let product = tokio::task::spawn_blocking(move || start_product(dir, &[])).await.unwrap();
    let script: String = blocks("Try it")
        .into_iter()
        // The test's own build stands for the one that `cargo run --release` left.
        .map(|block| block.replace("$PWD/target/release", "$TAFFRAIL_BUILD"))
        // Following ends by Ctrl-C; here it ends by itself.
        .map(|block| {
            block.replace(
                "taffrail events --follow",
                "timeout 2 taffrail events --after 0 --follow || [ $? = 124 ]",
            )
        })
        .collect();
    let script = format!("set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}");
    let folder = product.data_dir.clone();
    let output = tokio::task::spawn_blocking(move || {
        Command::new("bash")
            .args(["-c", &script])
            .env("TAFFRAIL_BUILD", std::path::Path::new(TAFFRAIL).parent().unwrap())
            .env("TAFFRAIL_DATA_DIR", folder)
            .env_remove("TAFFRAIL_URL")
            .env_remove("TAFFRAIL_TOKEN")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{out}\n{err}");
    for sign in [
        r#"{"hello":"Ada"}"#,     // the CLI's task was done by the agent
        r#""version":1"#,         // HTTP answered with the stream's version
        r#""status":"accepted""#, // NATS answered with the outcome
        "task.submitted",         // the events were shown
        "task.lease_expired",     // the killed agent lost its lease
        r#"{"rested":true}"#,     // and another one finished its task
    ] {
        assert!(out.contains(sign), "{sign} is missing in\n{out}\n{err}");
    }
}
