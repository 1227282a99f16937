"use strict";
// Says how an act went, and asks before one that cannot be undone.

const notice = document.getElementById("notice");
let fading = 0;

function say(text, bad) {
  clearTimeout(fading);
  notice.textContent = text;
  notice.className = bad ? "bad" : "good";
  if (text.includes("told this once")) return; // stays until the page is left
  fading = setTimeout(() => { notice.textContent = ""; notice.className = ""; }, bad ? 20000 : 8000);
}

function words(request) {
  try {
    const answer = JSON.parse(request.responseText);
    return answer.message || [answer.error, answer.hint].filter(Boolean).join(": ");
  } catch {
    return "";
  }
}

document.addEventListener("htmx:afterRequest", (event) => {
  const { xhr, successful, elt, requestConfig } = event.detail;
  if (requestConfig.verb === "get") {
    if (!successful) say("The page could not be loaded.", true);
    return;
  }
  const told = words(xhr);
  if (xhr.status === 401) location.href = "/login?next=" + encodeURIComponent(location.pathname + location.search);
  else if (told) say(told, !successful);
  else if (!successful) say("The dashboard did not answer.", true);
  if (successful && elt.matches("form[data-reload]")) location.reload();
  if (successful && elt.closest("dialog")) elt.closest("dialog").close();
  if (successful && elt.matches("form[data-clear]")) elt.reset();
});

document.addEventListener("htmx:confirm", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

// A button opens the dialog that it names.
document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-opens]");
  if (opener) document.getElementById(opener.dataset.opens).showModal();
  const closer = event.target.closest("[data-closes]");
  if (closer) closer.closest("dialog").close();
});
