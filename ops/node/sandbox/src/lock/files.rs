//! Landlock: which files may be touched, and who may be reached by signal or socket.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
};

use crate::error::StartError;
use crate::plan::{Layer, Plan};
use crate::spec::{Network, SECRETS, SOCKETS, WORKSPACE, Workspace};

/// First version with scopes: signals and abstract sockets.
pub(crate) const ABI_WITH_SCOPES: u8 = 6;

/// The newest version that is asked for; from 7 on nothing that a sandbox uses is added.
const NEWEST: u8 = ABI_WITH_SCOPES;

/// Where things are, as the program sees them.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub workspace: PathBuf,
    pub secrets: PathBuf,
    pub sockets: Option<PathBuf>,
    pub tmp: PathBuf,
    pub mounts: Vec<PathBuf>,
}

impl View {
    /// With an own root the fixed places, else those of the host.
    pub fn of(plan: &Plan) -> Self {
        let spec = &plan.spec;
        if plan.has(Layer::Root) {
            return Self {
                workspace: WORKSPACE.into(),
                secrets: SECRETS.into(),
                sockets: spec.socket_dir.as_ref().map(|_| SOCKETS.into()),
                tmp: "/tmp".into(),
                mounts: spec.mounts.iter().map(|mount| mount.target().to_owned()).collect(),
            };
        }
        Self {
            workspace: match &spec.workspace {
                Workspace::Tmpfs => plan.dir.join("workspace"),
                Workspace::Folder(folder) => folder.clone(),
            },
            secrets: plan.dir.join("secrets"),
            sockets: spec.socket_dir.clone(),
            tmp: plan.dir.join("tmp"),
            mounts: spec.mounts.iter().map(|mount| mount.source.clone()).collect(),
        }
    }
}

/// The newest version this kernel enforces in full, 0 without Landlock.
///
/// A ruleset is made and thrown away: nothing is restricted.
pub(crate) fn newest_abi() -> u8 {
    (1..=NEWEST).rev().find(|abi| ruleset(*abi, true).is_ok()).unwrap_or(0)
}

fn ruleset(abi: u8, no_network: bool) -> Result<landlock::RulesetCreated, landlock::RulesetError> {
    let abi = ABI::from(i32::from(abi));
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))?;
    let net = AccessNet::from_all(abi);
    if no_network && !net.is_empty() {
        rules = rules.handle_access(net)?;
    }
    let scopes = Scope::from_all(abi);
    if !scopes.is_empty() {
        rules = rules.scope(scopes)?;
    }
    rules.create()
}

/// Restricts this process and its children for good.
///
/// # Errors
/// [`StartError::Layer`] unless the version of the plan is enforced in full.
pub(crate) fn apply(plan: &Plan, view: &View) -> Result<(), StartError> {
    let failed = |error: String| StartError::layer("Landlock", error);
    if plan.abi == 0 {
        return Err(failed("the kernel does not have it".into()));
    }
    let abi = ABI::from(i32::from(plan.abi));
    let no_network = plan.spec.network == Network::None;
    let mut rules = ruleset(plan.abi, no_network).map_err(|error| failed(error.to_string()))?;
    rules = rules.no_new_privs(plan.has(Layer::NoNewPrivs));
    for (path, access) in access(plan, view, abi) {
        // What is not there needs no rule; what is there and cannot be opened stays closed.
        let Ok(opened) = PathFd::new(&path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(abi) };
        rules = rules
            .add_rule(PathBeneath::new(opened, access))
            .map_err(|error| failed(format!("{}: {error}", path.display())))?;
    }
    let status = rules.restrict_self().map_err(|error| failed(error.to_string()))?;
    if status.ruleset != RulesetStatus::FullyEnforced {
        return Err(failed(format!("{:?}", status.ruleset)));
    }
    Ok(())
}

fn access(plan: &Plan, view: &View, abi: ABI) -> Vec<(PathBuf, BitFlags<AccessFs>)> {
    let read = AccessFs::from_read(abi);
    let look = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    // No device nodes: they could not be opened on a nodev mount, and need not exist.
    let all = AccessFs::from_all(abi) & !make_bitflags!(AccessFs::{MakeChar | MakeBlock});
    let mut list: Vec<(PathBuf, BitFlags<AccessFs>)> = Vec::new();
    for path in ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc"] {
        list.push((path.into(), read));
    }
    list.push(("/proc".into(), look));
    for device in ["null", "zero", "full"] {
        list.push((Path::new("/dev").join(device), AccessFs::from_file(abi)));
    }
    for device in ["random", "urandom"] {
        list.push((Path::new("/dev").join(device), look));
    }
    if plan.has(Layer::Root) {
        list.push(("/dev/shm".into(), all));
        // Everything there is was put there for the program to see.
        list.push(("/".into(), AccessFs::ReadDir.into()));
    }
    list.push((view.workspace.clone(), all));
    list.push((view.tmp.clone(), all));
    list.push((view.secrets.clone(), look));
    list.extend(view.sockets.iter().map(|path| (path.clone(), look)));
    list.extend(view.mounts.iter().map(|path| (path.clone(), read)));
    list
}
