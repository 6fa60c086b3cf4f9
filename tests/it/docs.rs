//! What the documents name exists: metrics, routes, capability rows, tables.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::support::{self, Api};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(name)).unwrap()
}

async fn fetched(path: &str) -> String {
    let product = support::product().await;
    let api = Api::new(&product.http, &product.token);
    api.request(reqwest::Method::GET, path).send().await.unwrap().text().await.unwrap()
}

/// The first cell of each row of each table, without its backquotes.
fn first_cells(page: &str) -> impl Iterator<Item = &str> {
    page.lines()
        .filter_map(|line| line.strip_prefix("| "))
        .filter_map(|line| line.split(" |").next())
        .map(|cell| cell.trim_matches('`'))
}

#[tokio::test]
async fn every_metric_is_documented_and_every_documented_one_exists() {
    let page = page("operations.md");
    let documented: BTreeSet<&str> =
        first_cells(&page).filter(|cell| cell.starts_with("taffrail_")).collect();
    let shown = fetched("/metrics").await;
    let shown: BTreeSet<&str> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    // The database roles are named alike.
    let roles = BTreeSet::from(["taffrail_service", "taffrail_gateway"]);
    let documented: BTreeSet<_> = documented.difference(&roles).copied().collect();
    assert_eq!(documented, shown);
}

#[tokio::test]
async fn every_route_is_documented_and_every_documented_one_exists() {
    let page = page("api.md");
    let is_route = |cell: &&str| {
        let method = cell.split(' ').next().unwrap_or_default();
        ["GET", "POST", "PATCH", "PUT", "DELETE"].contains(&method)
    };
    let documented: BTreeSet<String> =
        first_cells(&page).filter(is_route).map(ToOwned::to_owned).collect();
    let document: serde_json::Value =
        serde_json::from_str(&fetched("/openapi.json").await).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let served: BTreeSet<String> = paths
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    assert_eq!(documented, served);
}

#[test]
fn every_capability_stands_there_once_with_a_known_state() {
    let page = page("capabilities.md");
    let mut seen = BTreeSet::new();
    for line in page.lines() {
        let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
        let (Some(row), Some(state)) = (cells.next(), cells.next()) else { continue };
        let Some((area, number)) = row.split_once('-') else { continue };
        if area.is_empty() || !area.bytes().all(|b| b.is_ascii_uppercase()) {
            continue;
        }
        assert!(number.parse::<u32>().is_ok(), "{row}");
        assert!(["yes", "in part", "not yet"].contains(&state), "{row}: {state}");
        assert!(seen.insert(row.to_owned()), "{row} stands there twice");
    }
    assert!(seen.len() > 100, "{}", seen.len());
}

#[test]
fn every_test_that_the_capabilities_name_exists() {
    let page = page("capabilities.md");
    let of = |crate_: &str, module: &str| {
        let folder = match crate_ {
            "domain" => "domain/tests/it",
            of_taffrail => &format!("tests/{of_taffrail}"),
        };
        let folder = root().join(folder);
        let Ok(parts) = std::fs::read_dir(folder.join(module)) else {
            return std::fs::read_to_string(folder.join(format!("{module}.rs")));
        };
        // A module of several files.
        parts.map(|part| std::fs::read_to_string(part?.path())).collect()
    };
    let mut checked = 0;
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let mut source = String::new();
        for name in row.split('`').skip(1).step_by(2) {
            let parts: Vec<&str> = name.split("::").collect();
            let test = match parts[..] {
                ["it" | "fault" | "domain", module, ref rest @ ..]
                    if module.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') =>
                {
                    source = of(parts[0], module).unwrap_or_else(|_| panic!("{name}"));
                    rest.last().copied()
                }
                ["…", test] => Some(test),
                _ => continue,
            };
            checked += 1;
            let found = test.is_none_or(|test| source.contains(&format!("fn {test}(")));
            assert!(found, "there is no test {name}");
        }
    }
    assert!(checked > 30, "{checked}");
}

#[test]
fn the_tables_are_those_of_the_migrations() {
    let script = root().join("ops/scripts/schema-diagram");
    let checked =
        std::process::Command::new("python3").arg(script).arg("--check").output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn the_table_of_an_agents_states_is_the_one_that_decides() {
    let page = page("lifecycle.md");
    for state in domain::agent::AgentState::ALL {
        let row = format!("| {} | {} |", state.as_str(), state.allowed().join(" "));
        assert!(page.contains(&row), "docs/lifecycle.md has no row `{row}`");
    }
}
