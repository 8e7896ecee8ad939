// The search of the support page: rows that hold every word stay, sections without one go.
document.addEventListener("DOMContentLoaded", () => {
  const input = document.querySelector(".support-search input");
  if (!input) return;
  const sections = [...document.querySelectorAll("details.support")];
  const search = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let hits = 0;
    for (const section of sections) {
      let found = 0;
      for (const row of section.querySelectorAll("tbody tr")) {
        row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
        found += !row.hidden;
      }
      section.hidden = words.length > 0 && found === 0;
      section.open = words.length > 0 && found > 0;
      hits += found;
    }
    document.querySelector(".support-none").hidden = hits > 0;
  };
  input.addEventListener("input", search);
  input.value = new URLSearchParams(location.search).get("class") ?? "";
  if (input.value) search();
  if (location.hash) document.querySelector(location.hash)?.setAttribute("open", "");
});
