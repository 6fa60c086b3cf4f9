//! A profile's commands, events and rules.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::spec::Profile;
use super::upcast::UPCASTS;
use crate::decide::{Facts, Refusal};
use crate::macros::Body;
use crate::problem::FieldError;
use crate::values::Check;

commands! {
    /// The commands of a profile.
    ProfileCommand {
        /// Sets it as a whole.
        Put(PutProfile) = "put",
        /// Takes it away; agents that run with it go on.
        Delete(DeleteProfile) = "delete",
    }
}

events! {
    /// The events of a profile.
    ProfileEvent of "profile" upcast UPCASTS;
    {
        /// It was set.
        Defined(ProfileDefined) = "defined" v 1,
        /// It is there no longer.
        Deleted(ProfileDeleted) = "deleted" v 1,
    }
}

/// Sets a profile as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutProfile {
    /// Its name.
    pub name: String,
    /// What it says.
    pub profile: Box<Profile>,
}

impl Body for PutProfile {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let own = self.profile.extends.as_ref() == Some(&self.name);
        let check = Check::default().token("name", &self.name).rule(
            !own,
            "profile/extends",
            "cycle",
            "a profile cannot extend itself",
        );
        self.profile.faults(check, "profile/").done()
    }
}

/// Takes a profile away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteProfile {
    /// Its name.
    pub name: String,
}

impl Body for DeleteProfile {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        Check::default().token("name", &self.name).done()
    }
}

impl ProfileCommand {
    /// The profile that it names.
    pub fn profile(&self) -> &str {
        match self {
            Self::Put(body) => &body.name,
            Self::Delete(body) => &body.name,
        }
    }
}

/// What it says from here on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProfileDefined {
    /// Its name.
    pub name: String,
    /// What it says.
    pub profile: Box<Profile>,
}

/// It is there no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProfileDeleted {
    /// Its name.
    pub name: String,
}

/// What one name stands for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProfileState {
    /// `None`: it is not there.
    pub profile: Option<Box<Profile>>,
}

impl ProfileState {
    /// Chooses the events a command leads to.
    ///
    /// # Errors
    /// When what is to be deleted is not there.
    pub fn decide(
        &self,
        command: &ProfileCommand,
        _: &Facts,
    ) -> Result<Vec<ProfileEvent>, Refusal> {
        match command {
            ProfileCommand::Put(new) if self.profile.as_ref() == Some(&new.profile) => Ok(vec![]),
            ProfileCommand::Put(new) => {
                let (name, profile) = (new.name.clone(), new.profile.clone());
                Ok(vec![ProfileEvent::Defined(ProfileDefined { name, profile })])
            }
            ProfileCommand::Delete(_) if self.profile.is_none() => Err(Refusal::unknown("profile")),
            ProfileCommand::Delete(gone) => {
                Ok(vec![ProfileEvent::Deleted(ProfileDeleted { name: gone.name.clone() })])
            }
        }
    }

    /// Folds one event into the state.
    pub fn apply(&mut self, event: &ProfileEvent) {
        self.profile = match event {
            ProfileEvent::Defined(new) => Some(new.profile.clone()),
            ProfileEvent::Deleted(_) => None,
        };
    }
}

aggregate!(ProfileState, "profile", ProfileCommand, ProfileEvent);
