//! What requests can ask for that has no price before the call.

/// Something that a request can ask for whose cost cannot be known before the call. It is refused
/// unless the route sells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// The answer is made later, and fetched by another call.
    Background,
    /// Another tier than the default, at another price of the upstream.
    ServiceTier,
    /// Tools that the upstream runs: searches, interpreters, remote servers.
    HostedTools,
    /// A prompt that the upstream keeps.
    PromptTemplate,
    /// A file that the upstream fetches.
    FileUrl,
    /// Other models beside the one that the request names.
    OtherModels,
    /// An earlier answer that the upstream remembers.
    PreviousResponse,
    /// A conversation that the upstream remembers.
    Conversation,
    /// An item that the upstream remembers.
    ItemReference,
    /// A file that the upstream keeps.
    FileId,
    /// A container that the upstream keeps.
    Container,
}

impl Extra {
    /// All of them.
    pub const ALL: [Extra; 11] = [
        Extra::Background,
        Extra::ServiceTier,
        Extra::HostedTools,
        Extra::PromptTemplate,
        Extra::FileUrl,
        Extra::OtherModels,
        Extra::PreviousResponse,
        Extra::Conversation,
        Extra::ItemReference,
        Extra::FileId,
        Extra::Container,
    ];

    /// Its name in the settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Extra::Background => "background",
            Extra::ServiceTier => "service_tier",
            Extra::HostedTools => "hosted_tools",
            Extra::PromptTemplate => "prompt",
            Extra::FileUrl => "file_url",
            Extra::OtherModels => "other_models",
            Extra::PreviousResponse => "previous_response_id",
            Extra::Conversation => "conversation",
            Extra::ItemReference => "item_reference",
            Extra::FileId => "file_id",
            Extra::Container => "container",
        }
    }

    /// Does it name what a customer has stored at the upstream? All customers share its credential,
    /// so the name could be that of another customer's data. It is never sold.
    #[must_use]
    pub const fn is_of_a_customer(self) -> bool {
        matches!(
            self,
            Extra::PreviousResponse
                | Extra::Conversation
                | Extra::ItemReference
                | Extra::FileId
                | Extra::Container
        )
    }

    /// Can it fill the model's context window with text that is not seen here?
    #[must_use]
    pub const fn fills_the_context(self) -> bool {
        !matches!(self, Extra::Background | Extra::ServiceTier | Extra::OtherModels)
    }
}
