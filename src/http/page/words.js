"use strict"; // words
