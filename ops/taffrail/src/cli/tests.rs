use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn global_flags_stand_before_or_behind_the_verb() {
    for line in [
        "taffrail -o jsonl --url http://h:1 task list",
        "taffrail task list --url http://h:1 -o jsonl",
    ] {
        let cli = parse(line).unwrap();
        assert_eq!(cli.globals.output, Output::Jsonl);
        assert_eq!(cli.globals.url.as_deref(), Some("http://h:1"));
    }
}

#[test]
fn an_agents_command_keeps_its_own_flags() {
    let cli = parse("taffrail agent run --name a --capability x --capability y -- sh -c --output")
        .unwrap();
    assert_eq!(cli.globals.output, Output::Table);
    assert!(matches!(cli.verb, Verb::Client(ClientVerb::Agent(agent::AgentVerb::Run(_)))));
    assert!(parse("taffrail agent run --name a").is_err(), "a command is required");
    assert!(parse("taffrail agent run --name a --queue a.b -- x").is_err(), "no subject token");
    assert!(parse("taffrail agent run --name a --slots 0 -- x").is_err());
}

#[test]
fn a_submitted_task_has_the_fields_that_were_given_and_no_others() {
    let body = |line: &str| {
        let verb = parse(line).unwrap().verb;
        let Verb::Client(ClientVerb::Task(task::TaskVerb::Submit(args))) = verb else {
            panic!("{verb:?}")
        };
        args.body().unwrap()
    };
    assert_eq!(body("taffrail task submit hello"), json!({ "title": "hello" }));
    let all = body(
        "taffrail task submit hello --queue q --type t --priority high --payload {\"a\":-1} \
         --capability c --label zone=eu --max-attempts 5 --run-at 2030-01-01T00:00:00Z --triage \
         --depends-on 01890a5d-ac96-774b-bcce-b302099a8057 --assignee someone",
    );
    let expected = json!({
        "title": "hello", "queue": "q", "type": "t", "priority": "high", "payload": { "a": -1 },
        "capabilities": ["c"], "labels": { "zone": "eu" }, "retry": { "max_attempts": 5 },
        "run_at": "2030-01-01T00:00:00Z", "triage": true, "assignees": ["someone"],
        "depends_on": ["01890a5d-ac96-774b-bcce-b302099a8057"],
    });
    assert_eq!(all, expected);
    let either = body("taffrail task submit n --need any --on end");
    assert_eq!(either["dependency"], json!({ "need": "any", "on": "end" }));
    assert_eq!(body("taffrail task submit n --payload -5")["payload"], -5);
    assert_eq!(body("taffrail task submit n --label a --label b")["labels"], json!(["a", "b"]));
}

#[test]
fn an_updated_task_has_the_fields_that_were_given_and_no_others() {
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let body = |flags: &str| {
        let verb = parse(&format!("taffrail task update {id} {flags}")).unwrap().verb;
        let Verb::Client(ClientVerb::Task(task::TaskVerb::Update(args))) = verb else {
            panic!("{verb:?}")
        };
        args.body()
    };
    assert_eq!(body("--title new"), json!({ "title": "new" }));
    assert_eq!(body("--no-dependencies"), json!({ "depends_on": [] }));
    let other = body(&format!("--depends-on {id} --on end"));
    assert_eq!(other, json!({ "depends_on": [id], "dependency": { "on": "end" } }));
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for line in [
        "taffrail task submit",
        "taffrail task submit a --timeout 5",
        "taffrail task get 17",
        "taffrail task submit a --need most",
        "taffrail events --after -1",
        "taffrail events --follow --actor me",
        "taffrail op wait 01890a5d-ac96-774b-bcce-b302099a8057 --timeout soon",
        "taffrail serve",
        "taffrail serve --role cook",
        "taffrail up --ephemeral --data-dir d",
        "taffrail rebuild a/../b",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn verbs_that_run_servers_have_the_flags_of_the_contract() {
    let up =
        parse("taffrail up --output json --data-dir d --http-addr 127.0.0.1:0 --offline").unwrap();
    let Verb::Up(args) = &up.verb else { panic!("{up:?}") };
    assert_eq!((args.offline, args.http_addr.as_deref()), (true, Some("127.0.0.1:0")));
    assert_eq!(up.globals.data_dir.as_deref(), Some(std::path::Path::new("d")));
    let serve = parse("taffrail serve --role gateway --role relay,projector").unwrap();
    let Verb::Serve(args) = serve.verb else { panic!() };
    assert_eq!(args.roles, [Role::Gateway, Role::Relay, Role::Projector]);
    assert!(parse("taffrail servers fetch").is_ok());
    assert!(parse("taffrail config show --origin").is_ok());
    assert!(parse("taffrail migrate").is_ok() && parse("taffrail doctor").is_ok());
}

#[test]
fn the_help_has_the_exit_codes_and_never_a_token() {
    let help = Cli::command().render_long_help().to_string();
    assert!(help.contains("Exit codes:") && help.contains("130  interrupted"), "{help}");
    assert!(!help.contains(exec::VERB), "hidden");
}
