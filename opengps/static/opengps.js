// openGPS: progress, channel toggles, contrast and copying. Every page also works without it.
"use strict";

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function told(job, doing) {
  if (job.state === "queued") {
    if (!job.ahead) return "Waiting.";
    return `Waiting: ${job.ahead} ${job.ahead === 1 ? "job is" : "jobs are"} before this one.`;
  }
  return `${doing}: ${job.progress} %.`;
}

// Ask how far the job is, less often the longer it takes, and load the page when it has ended.
async function follow(section) {
  const bar = section.querySelector("progress");
  const text = document.getElementById("told");
  for (let wait = 500; ; wait = Math.min(wait * 1.2, 5000)) {
    await pause(wait);
    try {
      const answer = await fetch(section.dataset.poll, { cache: "no-store" });
      if (!answer.ok) throw new Error(String(answer.status));
      const job = await answer.json();
      if (job.state === "done" || job.state === "failed") {
        location.reload();
        return;
      }
      bar.value = job.progress;
      const line = told(job, section.dataset.doing);
      if (text.textContent.trim() !== line) text.textContent = line; // said once, not each time
    } catch {
      text.textContent = "The server does not answer; asking again.";
    }
  }
}

function setUpViewer(viewer) {
  viewer.hidden = false;
  for (const box of viewer.querySelectorAll("input[data-channel]")) {
    const show = () => {
      for (const shot of document.querySelectorAll(`figure[data-channel="${box.dataset.channel}"]`))
        shot.hidden = !box.checked;
    };
    box.addEventListener("change", show);
    show(); // a browser may bring back how boxes were before a reload
  }
  const slider = document.getElementById("contrast");
  const number = document.getElementById("contrast-told");
  const adjust = () => {
    number.textContent = `${slider.value} %`;
    slider.setAttribute("aria-valuetext", number.textContent);
    document.documentElement.style.setProperty("--contrast", slider.value / 100);
  };
  slider.addEventListener("input", adjust);
  adjust();
}

function setUpCopy(button) {
  if (!navigator.clipboard) return; // not offered outside HTTPS
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).value);
    button.textContent = "Copied";
  });
}

const progress = document.getElementById("progress");
if (progress) follow(progress);
const viewer = document.getElementById("viewer");
if (viewer) setUpViewer(viewer);
document.querySelectorAll("button[data-copy]").forEach(setUpCopy);
document.getElementById("form-error")?.focus();
