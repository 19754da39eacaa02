//! libpam, loaded when it is first needed: the only unsafe code of authentication. Called in a worker process alone, or
//! (only [`Library::open`]) to see whether it is there.

#![allow(unsafe_code)] // the one place of authentication; listed in tests/tidy.rs

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr;

use libloading::Library as Loaded;

/// As Linux-PAM names its interface of version 1.
const FILE: &str = "libpam.so.0";
const SUCCESS: c_int = 0;
const BUFFER_ERROR: c_int = 5;
const CONVERSATION_ERROR: c_int = 19;
const SILENT: c_int = 0x8000;
const DISALLOW_NULL_PASSWORD: c_int = 1;
const USER: c_int = 2;
const TERMINAL: c_int = 3;
const REMOTE_HOST: c_int = 4;
const FAIL_DELAY: c_int = 10;
const PROMPT_ECHO_OFF: c_int = 1;
const PROMPT_ECHO_ON: c_int = 2;
/// PAM_MAX_NUM_MSG.
const MESSAGES: c_int = 32;

#[repr(C)]
struct Message {
    style: c_int,
    text: *const c_char,
}

#[repr(C)]
struct Response {
    text: *mut c_char,
    retcode: c_int,
}

type Converse = unsafe extern "C" fn(c_int, *mut *const Message, *mut *mut Response, *mut c_void) -> c_int;

#[repr(C)]
struct Conversation {
    converse: Converse,
    data: *mut c_void,
}

type Start = unsafe extern "C" fn(*const c_char, *const c_char, *const Conversation, *mut *mut c_void) -> c_int;
type Call = unsafe extern "C" fn(*mut c_void, c_int) -> c_int;
type SetItem = unsafe extern "C" fn(*mut c_void, c_int, *const c_void) -> c_int;
type GetItem = unsafe extern "C" fn(*const c_void, c_int, *mut *const c_void) -> c_int;

/// The functions of libpam. They stay valid, as the library is never unloaded.
pub(super) struct Library {
    start: Start,
    end: Call,
    authenticate: Call,
    account: Call,
    set_item: SetItem,
    get_item: GetItem,
    _loaded: Loaded,
}

/// What modules may ask for. Lives longer than the transaction that points to it.
pub(super) struct Credentials {
    pub(super) user: CString,
    /// `None`: nothing is told to whoever asks.
    pub(super) password: Option<CString>,
}

impl Library {
    /// # Errors
    /// Why it cannot be loaded.
    pub(super) fn open() -> Result<Self, String> {
        // SAFETY: Linux-PAM's library has no initialisers that ask anything of its loader.
        let loaded = unsafe { Loaded::new(FILE) }.map_err(|error| error.to_string())?;
        /// A function of the library; `T` must be its type.
        fn symbol<T: Copy>(loaded: &Loaded, name: &str) -> Result<T, String> {
            // SAFETY: every caller below gives the type that pam_appl.h declares for that name.
            unsafe { loaded.get::<T>(name) }.map(|symbol| *symbol).map_err(|error| error.to_string())
        }
        Ok(Self {
            start: symbol(&loaded, "pam_start")?,
            end: symbol(&loaded, "pam_end")?,
            authenticate: symbol(&loaded, "pam_authenticate")?,
            account: symbol(&loaded, "pam_acct_mgmt")?,
            set_item: symbol(&loaded, "pam_set_item")?,
            get_item: symbol(&loaded, "pam_get_item")?,
            _loaded: loaded,
        })
    }

    /// Begins to ask `service` about `credentials.user`.
    ///
    /// # Errors
    /// libpam's number.
    pub(super) fn begin<'c>(
        &'c self,
        service: &CStr,
        credentials: &'c Credentials,
        remote: Option<&CStr>,
    ) -> Result<Transaction<'c>, c_int> {
        let data = ptr::from_ref(credentials).cast_mut().cast();
        let conversation = Box::new(Conversation { converse, data });
        let mut handle = ptr::null_mut();
        // SAFETY: the texts end with NUL and are copied by libpam; the conversation lies in a box that lives in the
        // transaction, as long as the handle; `handle` is a valid place for the result.
        let code =
            unsafe { (self.start)(service.as_ptr(), credentials.user.as_ptr(), &raw const *conversation, &mut handle) };
        if code != SUCCESS || handle.is_null() {
            return Err(code.max(1));
        }
        let mut transaction = Transaction {
            library: self,
            handle,
            last: SUCCESS,
            _conversation: conversation,
            _credentials: credentials,
        };
        transaction.set(TERMINAL, c"socks".as_ptr().cast())?;
        let no_delay: extern "C" fn(c_int, c_uint, *mut c_void) = no_delay;
        transaction.set(FAIL_DELAY, no_delay as *const c_void)?;
        if let Some(remote) = remote {
            transaction.set(REMOTE_HOST, remote.as_ptr().cast())?;
        }
        Ok(transaction)
    }
}

/// A handle of libpam's, ended when dropped.
pub(super) struct Transaction<'c> {
    library: &'c Library,
    handle: *mut c_void,
    last: c_int,
    _conversation: Box<Conversation>,
    _credentials: &'c Credentials,
}

impl Transaction<'_> {
    /// `item` is a text or a function, as the kind wants it.
    fn set(&mut self, kind: c_int, item: *const c_void) -> Result<(), c_int> {
        // SAFETY: the handle is live; texts end with NUL and are copied, the one function is static.
        self.last = unsafe { (self.library.set_item)(self.handle, kind, item) };
        self.result()
    }

    /// Whether the password is right.
    pub(super) fn authenticate(&mut self) -> Result<(), c_int> {
        // SAFETY: the handle is live, and what its conversation points to lives in or beyond this transaction.
        self.last = unsafe { (self.library.authenticate)(self.handle, SILENT | DISALLOW_NULL_PASSWORD) };
        self.result()
    }

    /// Whether the account may be used: now, from there.
    pub(super) fn check_account(&mut self) -> Result<(), c_int> {
        // SAFETY: as in `authenticate`.
        self.last = unsafe { (self.library.account)(self.handle, SILENT | DISALLOW_NULL_PASSWORD) };
        self.result()
    }

    /// The user as modules have come to call them.
    pub(super) fn user(&self) -> Option<String> {
        let mut item = ptr::null();
        // SAFETY: the handle is live, and `item` a valid place for the result.
        let code = unsafe { (self.library.get_item)(self.handle, USER, &mut item) };
        if code != SUCCESS || item.is_null() {
            return None;
        }
        // SAFETY: PAM_USER is a text that ends with NUL and belongs to the live handle; it is copied here.
        let user = unsafe { CStr::from_ptr(item.cast()) };
        user.to_str().ok().map(str::to_owned)
    }

    fn result(&self) -> Result<(), c_int> {
        if self.last == SUCCESS { Ok(()) } else { Err(self.last) }
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle came from pam_start and is ended once, here.
        unsafe { (self.library.end)(self.handle, self.last) };
    }
}

/// Modules wish to wait after a failure; arus makes its client wait, not its worker.
extern "C" fn no_delay(_code: c_int, _microseconds: c_uint, _data: *mut c_void) {}

/// Answers modules: the password to what is asked without echo, the user to what is asked with it, nothing else.
///
/// # Safety
/// To be called by libpam, with `data` from [`Library::begin`].
unsafe extern "C" fn converse(
    count: c_int,
    messages: *mut *const Message,
    responses: *mut *mut Response,
    data: *mut c_void,
) -> c_int {
    if !(1..=MESSAGES).contains(&count) || messages.is_null() || responses.is_null() || data.is_null() {
        return CONVERSATION_ERROR;
    }
    let count = count as usize;
    // SAFETY: `data` is what `begin` gave: credentials that outlive the transaction, only read by anybody.
    let credentials = unsafe { &*data.cast::<Credentials>() };
    // SAFETY: plain allocation; the caller frees it with free(3), as pam_conv(3) says.
    let answers = unsafe { libc::calloc(count, size_of::<Response>()) }.cast::<Response>();
    if answers.is_null() {
        return BUFFER_ERROR;
    }
    for index in 0..count {
        // SAFETY: Linux-PAM gives an array of `count` pointers, of which this is one.
        let place = unsafe { messages.add(index) };
        // SAFETY: as above, and the caller has set each of them.
        let message = unsafe { *place };
        if message.is_null() {
            continue;
        }
        // SAFETY: each points to a message that lives during the call.
        let style = unsafe { (*message).style };
        let answer = match style {
            PROMPT_ECHO_OFF => credentials.password.as_deref(),
            PROMPT_ECHO_ON => Some(&*credentials.user),
            _ => None,
        };
        let Some(answer) = answer else { continue };
        // SAFETY: the text ends with NUL; its copy belongs to the caller.
        let copy = unsafe { libc::strdup(answer.as_ptr()) };
        // SAFETY: `index` is within the `count` responses that were just allocated.
        let response = unsafe { answers.add(index) };
        // SAFETY: as above, and they are zeroed: a response with nothing in it.
        unsafe { (*response).text = copy };
    }
    // SAFETY: `responses` was checked, and is a place for one pointer.
    unsafe { *responses = answers };
    SUCCESS
}
