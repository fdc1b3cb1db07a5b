//! Settings whose value is one of a fixed set of names.

/// Defines an enum whose variants have names in settings files.
macro_rules! named {
    ($(#[$doc:meta])* $vis:vis enum $enum:ident { $($(#[$note:meta])* $variant:ident = $name:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $enum { $($(#[$note])* $variant),+ }

        impl $enum {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl std::str::FromStr for $enum {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    _ => Err(format!("is not one of {}", [$($name),+].join(", "))),
                }
            }
        }
    };
}

named! {
    /// The set of defaults that overrides `default.toml`.
    pub enum Profile {
        Sandbox = "sandbox",
        Production = "production",
    }
}

named! {
    /// How the gateway authenticates to WeChat.
    pub enum CredentialMode {
        /// `cgi-bin/token`: a new token replaces the previous one, which stays valid for some minutes.
        Secret = "secret",
        /// `cgi-bin/stable_token`: the same token for every caller until 5 minutes before it expires.
        Stable = "stable",
        /// A token in a file that WeChat cloud hosting writes.
        Cloudbase = "cloudbase",
        /// No token: the sidecar of WeChat cloud hosting adds it.
        Open = "open",
        /// An authorizer's token, fetched by a third-party platform.
        Authorizer = "authorizer",
    }
}

named! {
    /// How files are sent to COS.
    pub enum CosRoad {
        /// One form for each file, with a link from WeChat.
        Form = "form",
        /// COS's own API, with keys.
        Api = "api",
    }
}

named! {
    /// How it is verified that COS stored the bytes that were sent.
    pub enum Verify {
        /// By the CRC-64 in COS's response, where there is one.
        Reply = "reply",
        /// As [`Verify::Reply`], and by a HEAD request where there is none.
        Head = "head",
        None = "none",
    }
}

named! {
    /// Where the keys for COS's API come from.
    pub enum CosKeys {
        /// Temporary keys of WeChat cloud hosting.
        Getauth = "getauth",
        /// The settings.
        Static = "static",
    }
}

named! {
    /// Where the value of `x-cos-meta-fileid` comes from when a file is sent by COS's API.
    pub enum FileIds {
        /// An upload link of WeChat.
        Link = "link",
        /// `/_/cos/metaid/encode` of WeChat cloud hosting.
        Metaid = "metaid",
    }
}

named! {
    /// What `GET /v1/files/{path}` requires of a client.
    pub enum LinkAccess {
        Public = "public",
        Signed = "signed",
        Authenticated = "authenticated",
    }
}

named! {
    /// What of a request's query may be passed on to COS.
    pub enum PassQuery {
        /// Parameters whose name begins with `imageMogr2/`.
        ImageMogr2 = "imageMogr2/*",
        /// Parameters whose name begins with `imageView2/`.
        ImageView2 = "imageView2/*",
        CiProcess = "ci-process=*",
        ResponseContentDisposition = "response-content-disposition",
    }
}

named! {
    /// The shape of an upload's response, by the client that reads it; `http::response` has the shapes.
    pub enum ReplyProfile {
        Default = "default",
        Wangeditor = "wangeditor",
        Tinymce = "tinymce",
        Ckeditor = "ckeditor",
        Editorjs = "editorjs",
        Vditor = "vditor",
        Ueditor = "ueditor",
        Filepond = "filepond",
        Dropzone = "dropzone",
        Text = "text",
        /// The back end's own response to the event of the stored file.
        Hook = "hook",
    }
}

named! {
    /// Whether downloads of a file have a `Content-Disposition`, and which.
    pub enum ContentDisposition {
        /// Without the header.
        None = "none",
        /// Browsers show the file, and save it under its name.
        Inline = "inline",
        /// Browsers save the file under its name.
        Attachment = "attachment",
    }
}

named! {
    /// What a client may be permitted to do.
    pub enum Action {
        Upload = "upload",
        Download = "download",
        Delete = "delete",
        Link = "link",
        /// To sign tickets; of keys only.
        Mint = "mint",
    }
}

impl Action {
    /// Those that any client may be permitted.
    pub const ON_FILES: [Self; 4] = [Self::Upload, Self::Download, Self::Delete, Self::Link];
}

named! {
    /// How tickets are signed.
    pub enum JwtAlgorithm {
        Hs256 = "HS256",
        Rs256 = "RS256",
        Es256 = "ES256",
        EdDsa = "EdDSA",
    }
}

named! {
    /// Optional members of the events that the back end is sent.
    pub enum HookField {
        /// The client's name.
        Client = "client",
        /// The user of a ticket or of a mini program.
        Sub = "sub",
        /// What the client told of the file besides.
        Metadata = "metadata",
        /// The stable URL.
        Url = "url",
    }
}

named! {
    /// What has a count of its own in a quota.
    pub enum QuotaPer {
        /// A key, all tickets together, all users of a mini program together.
        Client = "client",
        /// A user: a ticket's `sub`, a mini program's user. A key counts as one user, as do all tickets without a `sub`.
        Sub = "sub",
    }
}

named! {
    pub enum LogFormat {
        Text = "text",
        Json = "json",
    }
}
